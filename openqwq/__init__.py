"""OpenQwQ: make, run and check compact reasoning models by the published QwQ-32B recipe."""

from importlib import import_module

__version__ = "0.1.0.dev0"

_LAZY = {"LLM": "openqwq.inference", "SamplingParams": "openqwq.types"}

__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'openqwq' has no attribute {name!r}")
