"""This engine, as `LLM` and `openqwq serve` make it, with float32 or packed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import Requests, Run

if TYPE_CHECKING:
    from openqwq.model import Decoder


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """Ids are handed in, and none ends a sequence."""
    import torch

    from openqwq.inference import Engine
    from openqwq.model import load_model, quantize_weights
    from openqwq.types import Prompt, SamplingParams

    torch.set_num_threads(threads)
    model = load_model(folder, dtype=torch.float32)
    if kind != "float32":
        quantize_weights(model, kind)
    engine = Engine(model, eos_token_ids=(), max_model_len=1280)

    def run(requests: Requests, sampled: bool) -> list[list[int]]:
        options = {"temperature": float(sampled), "top_p": 1.0, "top_k": 0, "ignore_eos": True}
        params = [SamplingParams(max_tokens=new, seed=0, **options) for _, new in requests]
        done = engine.generate([Prompt(tuple(prompt)) for prompt, _ in requests], params)
        return [list(completion.token_ids) for completions in done for completion in completions]

    return run, weight_bytes(model)


def weight_bytes(model: Decoder) -> int:
    """What a token reads: all but the embedding, which is read by row unless it is the head."""
    tensors = [*model.parameters(), *model.buffers()]
    skipped = model.model.embed_tokens.weight.nbytes if model.lm_head is not None else 0
    return sum(tensor.nbytes for tensor in tensors) - skipped
