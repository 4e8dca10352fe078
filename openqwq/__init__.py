"""OpenQwQ: make, run and check compact reasoning models by the published QwQ-32B recipe."""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0.dev0"

# Threads that wait for each other at a kernel's end spin 300,000 rounds before they sleep, libgomp's default. Where
# other programs want the cores too, a wait can last until the scheduler's next turn: single rounds of decoding took 16
# to 87 times as long. The library reads the number when torch loads it; what the user has set stands.
SPIN_COUNT = "10000"
SPIN_COUNT_COMES_LATE = "torch" in sys.modules
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT

_LAZY = {"LLM": "openqwq.inference", "SamplingParams": "openqwq.types", "UserError": "openqwq.errors"}

__all__ = ["LLM", "SamplingParams", "UserError", "__version__", "train"]


class _Train(ModuleType):
    """The room `openqwq.train`, which can also be called: `openqwq.train(recipe, verifiers=...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `openqwq.from_python.train`."""
        return import_module("openqwq.from_python").train(*args, **kwargs)


class _Package(ModuleType):
    """This module: what is public is imported when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name == "train":
            return import_module("openqwq.train")
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module 'openqwq' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):  # the import of the room ends with this
            value.__class__ = _Train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
