"""The sampling that a model's own folder recommends. Plain Python: no torch.

Public: recommended_sampling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

GENERATION_CONFIG = "generation_config.json"
SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def recommended_sampling(folder: Path) -> dict[str, Any]:
    """Sampling values of the folder's generation_config.json; empty where it has none.

    `do_sample` false is greedy decoding, whatever the other values. Raises UserError for no JSON object and for
    values that are no numbers.
    """
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no JSON object")
    values = {key: config[key] for key in SAMPLING_NAMES if config.get(key) is not None}
    for key, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UserError(f"`{key}` is {value!r:.80} in {file}, but must be a number")
    return {**values, "temperature": 0.0} if config.get("do_sample") is False else values
