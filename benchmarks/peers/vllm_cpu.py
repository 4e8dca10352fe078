"""vLLM's build for CPUs, in the process itself."""

from __future__ import annotations

import os

from . import Requests, Run

CACHE_GIB = 2


def start(folder: str, kind: str, threads: int) -> tuple[Run, None]:
    """Compiled by inductor, as it is by default; its cores are those that the process may run on."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB)}
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)), "VLLM_LOGGING_LEVEL": "ERROR"}
    import torch
    from vllm import LLM, SamplingParams

    torch.set_num_threads(threads)
    dtype = "float32" if kind == "float32" else "bfloat16"
    options = {"dtype": dtype, "max_model_len": 1280, "max_num_seqs": 256, "enable_prefix_caching": True}
    llm = LLM(model=folder, skip_tokenizer_init=True, disable_log_stats=True, seed=0, **options)

    def run(requests: Requests, sampled: bool) -> list[list[int]]:
        common = {"temperature": float(sampled), "ignore_eos": True, "detokenize": False}
        params = [SamplingParams(max_tokens=new, **common) for _, new in requests]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        return [list(done.outputs[0].token_ids) for done in llm.generate(prompts, params, use_tqdm=False)]

    return run, None
