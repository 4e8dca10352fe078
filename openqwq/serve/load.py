"""A model folder made ready to be served: weights in an engine, tokenizer, recommended sampling.

Public: load_served_model, recommended_sampling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.inference import LLM, AsyncEngine
from openqwq.model import resolve_folder

from .engine import ServedModel

GENERATION_CONFIG = "generation_config.json"
SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load_served_model(
    source: str | Path,
    name: str,
    *,
    max_model_len: int | None = None,
    max_num_seqs: int = 64,
    seed: int = 0,
    **options: Any,
) -> ServedModel:
    """The model of a folder, a hub name or a preset, in an engine of its own.

    max_model_len: None: the model's context.
    options:       further ones of `LLM`, e.g. `kv_cache_dtype`.
    """
    folder = resolve_folder(source)
    llm = LLM(folder, max_model_len=max_model_len, max_num_seqs=max_num_seqs, seed=seed, **options)
    return ServedModel(
        name=name,
        engine=AsyncEngine(llm.engine),
        tokenizer=llm.require_tokenizer(),
        max_model_len=llm.engine.max_model_len,
        vocab_size=llm.engine.model.config.vocab_size,
        defaults=recommended_sampling(folder),
    )


def recommended_sampling(folder: Path) -> dict[str, Any]:
    """Sampling values of the folder's generation_config.json; empty where it has none."""
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        values = {key: config[key] for key in SAMPLING_NAMES if config.get(key) is not None}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    return values
