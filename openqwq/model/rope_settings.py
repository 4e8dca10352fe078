"""The rotary settings of a config.json, in every spelling that model folders have.

transformers 4 writes `rope_theta` and `rope_scaling` (kind under `type` or `rope_type`), transformers 5 a block
`rope_parameters` that holds the base too and may be nested by layer type. Both blocks may be there, because model
cards ask for `rope_scaling` in a folder that transformers 5 saved. A setting is read or refused, never left out.

Public: `YarnScaling`, `Llama3Scaling`, `RopeScaling`, `read_rope`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from openqwq.errors import UserError

from .config_values import check_number, require

DEFAULT_THETA = 10000.0
YARN_KEYS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")
LLAMA3_KEYS = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
BLOCKS = ("rope_scaling", "rope_parameters")
HINT = 'use {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}'
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Static YaRN (arXiv:2309.00071): the same frequencies and the same mscale at every length.

    factor:           context grows by this factor over `original_max_position_embeddings`.
    beta_fast, -slow: rotations over the original context that bound the interpolation ramp.
    attention_factor: multiplies cos and sin; None means 0.1 ln(factor) + 1.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        for key in YARN_KEYS:
            value = getattr(self, key)
            if key != "attention_factor" or value is not None:
                check_number(f"rope_scaling.{key}", value, whole=key == "original_max_position_embeddings")
                require(value > 0, f"rope_scaling.{key}", value, "above 0")
        require(self.factor >= 1, "rope_scaling.factor", self.factor, "at least 1")

    def to_dict(self) -> dict[str, Any]:
        """The block under both spellings of its kind: `type` (older readers) and `rope_type`."""
        block = {key: value for key, value in asdict(self).items() if value is not None}
        return {"type": "yarn", "rope_type": "yarn", **block}


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3's scaling: long wavelengths are stretched by `factor`, short ones kept, with a ramp between.

    Wavelengths above original / low_freq_factor are stretched, those below original / high_freq_factor kept.
    """

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        for key in LLAMA3_KEYS:
            whole = key == "original_max_position_embeddings"
            check_number(f"rope_scaling.{key}", getattr(self, key), whole=whole)
            require(getattr(self, key) > 0, f"rope_scaling.{key}", getattr(self, key), "above 0")
        require(
            self.high_freq_factor > self.low_freq_factor,
            "rope_scaling.high_freq_factor",
            self.high_freq_factor,
            "above `low_freq_factor`",
        )

    def to_dict(self) -> dict[str, Any]:
        """The block as transformers and vLLM read it."""
        return {"rope_type": "llama3", **asdict(self)}


RopeScaling = YarnScaling | Llama3Scaling


def read_rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling of a config.json.

    Where both blocks are there, the one that scales counts. Raises UserError for two blocks that contradict each
    other, for a scaling that is neither YaRN nor Llama 3's, and for a block whose kind is not named.
    """
    blocks = {name: _flat(name, raw[name]) for name in BLOCKS if raw.get(name) is not None}
    if raw.get("partial_rotary_factor") not in (None, 1):
        _refuse_partial("partial_rotary_factor", raw["partial_rotary_factor"])
    read = {name: _read_block(name, block) for name, block in blocks.items() if block}
    thetas = {theta for theta, _ in read.values() if theta is not None}
    first, second = (read.get(name, (None, None))[1] for name in BLOCKS)
    # transformers 5 writes the kind "default" into `rope_parameters` by itself; in `rope_scaling` somebody meant it
    if second is not None and first != second and set(blocks.get("rope_scaling", {})) - {"rope_theta"}:
        raise UserError(
            "`rope_scaling` and `rope_parameters` of config.json ask for different rotary settings",
            hint="remove one of them, or give both the same values",
        )
    if len(thetas) > 1:
        bases = " and ".join(map(str, sorted(thetas)))
        raise UserError(f"`rope_theta` is {bases} in the two rope blocks of config.json", hint="remove one of them")
    outer = raw.get("rope_theta")
    theta = thetas.pop() if thetas else DEFAULT_THETA if outer is None else outer
    check_number("rope_theta", theta, whole=False)
    return float(theta), first or second


def _flat(name: str, block: Any) -> dict[str, Any]:
    """The block of full attention, where there is one for each layer type."""
    if not isinstance(block, Mapping):
        raise UserError(f"`{name}` is {block!r:.80} in config.json, but must be an object", hint=HINT)
    nested = {key: value for key, value in block.items() if key.endswith("_attention")}
    if not nested:
        return dict(block)
    common = {key: value for key, value in block.items() if key not in nested}
    if not isinstance(nested.get(FULL), Mapping):
        raise UserError(f"`{name}` of config.json lacks an object `{FULL}`; it has {', '.join(sorted(nested))}")
    return common | dict(nested[FULL])


def _read_block(name: str, block: Mapping[str, Any]) -> tuple[float | None, RopeScaling | None]:
    """A block's own base, if it states one, and its scaling; None for the kind "default"."""
    block = {key: value for key, value in block.items() if value is not None}
    theta = block.pop("rope_theta", None)
    if theta is not None:
        check_number(f"{name}.rope_theta", theta, whole=False)
    if block.pop("partial_rotary_factor", 1) != 1:
        _refuse_partial(f"{name}.partial_rotary_factor", "not 1")
    kinds = [block.pop(key) for key in ("rope_type", "type") if key in block]
    if not kinds and block:
        raise UserError(f"`{name}` of config.json has {', '.join(sorted(block))} but no `rope_type`", hint=HINT)
    if all(kind == "default" for kind in kinds):
        if set(block) & {"factor", *YARN_KEYS}:
            raise UserError(f"`{name}` of config.json has the kind 'default' and yet {', '.join(sorted(block))}")
        return theta, None
    if all(kind == "llama3" for kind in kinds):
        if lacking := set(LLAMA3_KEYS) - set(block):
            raise UserError(f"the llama3 block of config.json lacks `{min(lacking)}`")
        if unknown := set(block) - set(LLAMA3_KEYS):
            raise UserError(f"the llama3 block of config.json has the unknown key `{min(unknown)}`")
        return theta, Llama3Scaling(**block)
    if not all(kind == "yarn" for kind in kinds):
        named = "/".join(sorted({str(kind) for kind in kinds}))
        raise UserError(f"rope scaling {named!r} is not supported; 'yarn' and 'llama3' are", hint=HINT)
    if block.pop("truncate", True) is not True or set(block) - set(YARN_KEYS):
        raise UserError(f"YaRN with {sorted(set(block) - set(YARN_KEYS)) or 'truncate = false'} is not supported")
    if "original_max_position_embeddings" not in block or "factor" not in block:
        raise UserError(
            "the YaRN block of config.json lacks `factor` or `original_max_position_embeddings`",
            hint="QwQ-32B and Qwen2.5 were trained at 32768 positions: name it, for readers do not agree on a default",
        )
    return theta, YarnScaling(**block)


def _refuse_partial(name: str, value: object) -> None:
    raise UserError(f"`{name}` is {value} in config.json, but only rotation of all of a head's channels is supported")
