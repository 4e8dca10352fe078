"""A model folder made ready to be served: weights in an engine, tokenizer, recommended sampling.

Public: load_served_model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openqwq.inference import LLM, AsyncEngine
from openqwq.inference.params import recommended_sampling
from openqwq.kernels import log_choice
from openqwq.model import resolve_folder

from .engine import ServedModel


def load_served_model(source: str | Path, name: str, **options: Any) -> ServedModel:
    """The model of a folder, a hub name or a preset, in an engine of its own. options: as `LLM` takes them."""
    folder = resolve_folder(source)
    llm = LLM(folder, **options)
    log_choice(llm.engine.model.ops.name, llm.engine.model.device.type, llm.engine.model.dtype)
    return ServedModel(
        name=name,
        engine=AsyncEngine(llm.engine),
        tokenizer=llm.require_tokenizer(),
        max_model_len=llm.engine.max_model_len,
        vocab_size=llm.engine.model.config.vocab_size,
        defaults=recommended_sampling(folder),
    )
