"""Learning rates for stages that name none, by the kind of stage and the size of the model that the recipe starts from.

The declared default is for models of up to some million parameters; larger ones are trained at lower rates. That of the
largest is GRPO's and DAPO's for RL (arXiv:2402.03300, section 4.2; arXiv:2503.14476, section 4.1), the others are ours.

Public: with_learning_rates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MILLION = 1_000_000
RATES = (
    (20 * MILLION, 1e-3, 1e-3),
    (300 * MILLION, 1e-4, 1e-5),
    (3000 * MILLION, 2e-5, 2e-6),
)
"""(models of up to so many parameters, rate of supervised stages, rate of RL)."""
LARGEST = (1e-5, 1e-6)
LORA_FACTOR = 10
"""Adapters learn at about ten times the rate of whole weights."""
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z0-9])")
DEFAULT_KINDS = ("pretrain", "sft", "reward_model", "rl")


def with_learning_rates(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe's tables with a `learning_rate` in every stage, where the recipe starts from a model's `path`.

    The size of a folder's model is counted from its config; that of a hub name is read from the name, as in
    "Qwen2.5-0.5B". A model of unknown size gets the lowest rates.
    """
    model, stages = tables.get("model"), tables.get("stage")
    path = model.get("path") if isinstance(model, Mapping) else None
    if not isinstance(path, str) or not path or not isinstance(stages, Mapping):
        return tables
    missing = [name for name, stage in stages.items() if _lacks_rate(stage)]
    size = _count_parameters(Path(path)) or _size_in_name(path)
    filled = {name: {**stages[name], "learning_rate": default_rate(stages[name], size)} for name in missing}
    return {**tables, "stage": {**stages, **filled}}


def default_rate(stage: Mapping[str, Any], num_parameters: int | None) -> float:
    """The rate of a stage's table for a model of that size; None: not known."""
    size = num_parameters or math.inf
    supervised, rl = next(((high, low) for limit, high, low in RATES if size <= limit), LARGEST)
    if stage["kind"] != "rl":
        return supervised
    lora = stage.get("lora")
    has_adapters = isinstance(lora, Mapping) and bool(lora.get("rank")) and rl < RATES[0][2]
    return rl * LORA_FACTOR if has_adapters else rl


def _lacks_rate(stage: Any) -> bool:
    return isinstance(stage, Mapping) and stage.get("kind") in DEFAULT_KINDS and "learning_rate" not in stage


def _size_in_name(name: str) -> int | None:
    """The number of parameters that a model's name tells, None where it tells none."""
    found = _SIZE.findall(name)
    return round(float(found[-1][0]) * (1000 if found[-1][1] in "bB" else 1) * MILLION) if found else None


def _count_parameters(folder: Path) -> int | None:
    """About how many parameters a model folder's config.json describes; None where it cannot be read."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hidden, layers, heads = (int(raw[name]) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        head_dim = int(raw.get("head_dim") or hidden // heads)
        kv_heads = int(raw.get("num_key_value_heads") or heads)
        layer = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * int(raw["intermediate_size"])
        embeddings = int(raw["vocab_size"]) * hidden * (1 if raw.get("tie_word_embeddings") else 2)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, AttributeError):
        return None
    return layers * layer + embeddings
