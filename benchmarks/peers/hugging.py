"""`transformers`' `generate`: static batches."""

from __future__ import annotations

from . import Requests, Run

STATIC_BATCH = 32


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """Batches in order of arrival; what is behind a request's length is cut off."""
    import torch

    model = load(folder, kind, threads)

    def generate(prompts: list[list[int]], longest: int, sampled: bool) -> list[list[int]]:
        ids = torch.tensor(prompts)
        options = {"do_sample": sampled, "eos_token_id": None, "pad_token_id": 0}
        if sampled:
            options |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, **options)
        return out[:, ids.shape[1] :].tolist()

    return lambda requests, sampled: in_batches(requests, sampled, generate), weight_bytes(model)


def load(folder, kind, threads):
    """The model, in float32 or bfloat16, its generation config without what would end or alter a sequence."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32 if kind == "float32" else torch.bfloat16)
    model.generation_config = GenerationConfig()
    return model.eval()


def weight_bytes(model) -> int:
    """All but an embedding that is not the head too."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(weight.nbytes for weight in model.parameters()) - (embedding.nbytes if embedding is not head else 0)


def in_batches(requests: Requests, sampled: bool, generate) -> list[list[int]]:
    """`generate(prompts, longest, sampled)` over at most 32 requests at a time, whose prompts are equally long."""
    out = []
    for first in range(0, len(requests), STATIC_BATCH):
        batch = requests[first : first + STATIC_BATCH]
        rows = generate([prompt for prompt, _ in batch], max(new for _, new in batch), sampled)
        out += [row[:new] for row, (_, new) in zip(rows, batch, strict=True)]
    return out
