"""`transformers`' continuous batching: what `generate_batch` does, with a length for each request."""

from __future__ import annotations

from . import Requests, Run
from .hugging import load, weight_bytes

PAGES, PAGE = 256, 64
TOKENS_OF_A_STEP = 1024


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """One manager for greedy and one for sampled work: the sampling is a manager's, the length a request's."""
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = load(folder, kind, threads)
    sizes = {"num_blocks": PAGES, "page_size": PAGE, "max_batch_tokens": TOKENS_OF_A_STEP}
    managers = {}

    def manager_of(sampled: bool):
        if sampled not in managers:
            options = {"do_sample": sampled, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": 512}
            if sampled:
                options |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
            managers[sampled] = model.init_continuous_batching(
                generation_config=GenerationConfig(**options),
                continuous_batching_config=ContinuousBatchingConfig(**sizes),
            )
            managers[sampled].start()
        return managers[sampled]

    @torch.no_grad()
    def run(requests: Requests, sampled: bool) -> list[list[int]]:
        manager = manager_of(sampled)
        names = [manager.add_request(prompt, max_new_tokens=new) for prompt, new in requests]
        done = {}
        while len(done) < len(names):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("the thread that generates has ended")
            if result is not None and result.error:
                raise RuntimeError(result.error)
            if result is not None and result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        return [done[name] for name in names]

    return run, weight_bytes(model)
