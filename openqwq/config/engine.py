"""Every option of an engine and of the model in it: the one place where they are named, explained and given defaults.

`Engine(model, max_num_seqs=8)` and `LLM("path", quantization="int8")` build these; the command line takes its options,
their defaults and their help texts from here. Nothing here imports torch.

Public: EngineConfig, ModelOptions, DraftOptions, LayerWindows, make_config, option_texts, option_choices.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from openqwq.errors import UserError

from .build import suggest

CLOSING_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now."
    "\n</think>\n\n"
)


class DraftOptions(Protocol):
    """How tokens are guessed: `openqwq.inference.Speculation`."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def model(self) -> Any: ...
    @property
    def rejection(self) -> str: ...


class LayerWindows(Protocol):
    """How far back each layer sees: `openqwq.model.AttentionWindows`."""

    @property
    def layers(self) -> Sequence[Any]: ...


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How an engine runs. Raises UserError naming the first value that is out of range."""

    eos_token_ids: Collection[int] | None = None
    """Token ids that end every sample. None: the tokenizer's."""
    max_num_seqs: int = 256
    """Sequences that run at once, at most; fewer where the KV cache does not hold them. At least 1."""
    max_model_len: int | None = None
    """Tokens of prompt and completion together, at most. None: the model's context, which is also the maximum."""
    max_num_batched_tokens: int = 8192
    """Tokens of one forward pass, at most; longer prompts are computed in chunks. Lower: shorter waits for others."""
    kv_cache_memory: int | None = None
    """Bytes for the KV cache ("8GiB" on the command line). None: half of the GPU's free memory, or 2 GiB on a CPU."""
    gpu_memory_utilization: float | None = None
    """Fraction (up to 1) of the GPU's memory for weights and KV cache; unused with `kv_cache_memory`. None: not set."""
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Type of the KV cache. bfloat16 and int8 hold more tokens and round log-probs; auto is the model's own, exact."""
    prefix_caching: bool = True
    """Keep the KV cache of prompts for later prompts that begin alike."""
    kernels: Literal["auto", "reference", "triton"] = "auto"
    """Kernels: "auto" is C on a CPU and PyTorch on a GPU, "reference" PyTorch everywhere, "triton" opt-in on a GPU."""
    batch_invariant: bool = False
    """A token and its log-prob never depend on what else runs. CPU, float32 and the compiled kernels only."""
    speculation: DraftOptions | None = None
    """Guesses that are checked in one pass, by prompt lookup or a draft model. None: one token a step."""
    yarn_per_request: bool = False
    """YaRN only for requests whose prompt and `max_tokens` exceed the trained window. False: as the config says."""
    attention_windows: LayerWindows | None = None
    """How far back each layer sees; the KV cache beyond is freed. None: all layers see everything, exactly."""
    closing_text: str = CLOSING_TEXT
    """Text that is inserted to end thinking; must contain `</think>`."""
    seed: int = 0
    """Seed of the noise of requests that bring none, together with each request's number."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UserError(f"`{name}` is {size}, but must be at least 1")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise UserError(f"`gpu_memory_utilization` is {share}, but must be above 0 and at most 1")

    def check_model(self, *, max_context: int, num_layers: int) -> None:
        """Raises UserError for more positions than the model has, and for another model's attention windows."""
        if self.max_model_len is not None and self.max_model_len > max_context:
            raise UserError(
                f"`max_model_len` is {self.max_model_len}, but the model has {max_context} positions",
                hint="lower it, or extend the model by YaRN with `rope_scaling`",
            )
        windows, draft = self.attention_windows, self.speculation
        if windows is not None and len(windows.layers) != num_layers:
            raise UserError(
                f"the attention windows are for {len(windows.layers)} layers, but the model has {num_layers}"
            )
        if windows is not None and draft is not None and draft.model is not None:
            raise UserError(
                "attention windows are not available with a draft model, whose cache has the model's blocks",
                hint='use prompt lookup instead: `{"method": "ngram", ...}`',
            )

    def check_invariant(self) -> None:
        """Raises UserError for options that are not available in the batch-invariant mode."""
        clashes = {
            f"`kv_cache_dtype` {self.kv_cache_dtype!r}, which rounds": self.kv_cache_dtype not in ("auto", "float32"),
            f"`kernels` {self.kernels!r}": self.kernels != "auto",
            "`yarn_per_request`": self.yarn_per_request,
            "rejection 'standard', whose tokens depend on guesses": self.speculation is not None
            and self.speculation.rejection == "standard",
            "attention windows": self.attention_windows is not None,
        }
        for what, there in clashes.items():
            if there:
                raise UserError(f"`batch_invariant` is not available with {what}", hint="leave one of them out")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How `LLM` loads a model."""

    device: str | None = None
    """Device, e.g. "cuda:1". None: the first GPU if there is one, else the CPU."""
    dtype: Any = None
    """Type of the weights, e.g. "bfloat16". None or "auto": config.json's on a GPU, float32 on a CPU."""
    quantization: Literal["bf16", "int8", "int4"] | None = None
    """Round the weights as they are read: 1/2, 1/4 or 1/8 of float32's memory. None: as the folder holds them."""
    speculative_config: Mapping[str, Any] | None = None
    """Guess tokens, by prompt lookup: {"method": "ngram", "num_speculative_tokens": 4}, or by a draft model:
    {"model": "small/model", "num_speculative_tokens": 4}. None: off."""
    rope_scaling: Mapping[str, Any] | None = None
    """YaRN for requests beyond the trained window: {"rope_type": "yarn", "factor": 4.0,
    "original_max_position_embeddings": 32768}. None: as config.json says."""
    attention_window: str | Mapping[str, Any] | None = None
    """Free the KV cache that attention hardly reads: tokens=1024 for all layers, or mass=0.99,text=FILE for windows
    that hold this share of each layer's attention on a text. None: off."""

    def __post_init__(self) -> None:
        _check_choices(self)


Config = TypeVar("Config", EngineConfig, ModelOptions)


def make_config(base: Config, options: Mapping[str, Any], *others: type) -> Config:
    """`base` with other values. Raises UserError with the nearest name for an option that it does not have.

    others: further classes whose names are worth suggesting.
    """
    known = {field.name for cls in (type(base), *others) for field in fields(cls)}
    own = {field.name for field in fields(base)}
    for name in options:
        if name not in own:
            raise UserError(f"there is no engine option `{name}`", hint=suggest(name, known))
    return replace(base, **options)


@lru_cache
def option_texts(cls: type) -> Mapping[str, str]:
    """The explanation under each field of a class, in one line."""
    module = ast.parse(Path(inspect.getfile(cls)).read_text(encoding="utf-8"))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    texts = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            assert isinstance(after.value, ast.Constant)
            texts[node.target.id] = " ".join(str(after.value.value).split())
    return texts


@lru_cache
def option_choices(cls: type) -> Mapping[str, tuple[str, ...]]:
    """The values that a field takes, for the fields that take one of a few."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        for part in (hint, *typing.get_args(hint)):
            if typing.get_origin(part) is Literal:
                found[name] = typing.get_args(part)
    return found


def _check_choices(config: EngineConfig | ModelOptions) -> None:
    """Raises UserError for a value that its field does not allow."""
    cls: type = type(config)
    defaults = {field.name: field.default for field in fields(cls)}
    for name, choices in option_choices(cls).items():
        value = getattr(config, name)
        if value not in choices and not (value is None and defaults[name] is None):
            allowed = [*map(repr, choices), *["None"] * (defaults[name] is None)]
            raise UserError(f"`{name}` is {value!r}, but must be {', '.join(allowed[:-1])} or {allowed[-1]}")
