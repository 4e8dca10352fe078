"""How much memory the KV cache takes, and in what its keys and values are kept.

Public: BLOCK_SIZE, cache_memory, storage_dtype, fit_blocks.
"""

from __future__ import annotations

import torch

from openqwq.errors import UserError

from .block_manager import format_bytes

CPU_CACHE_BYTES = 2 * 2**30
GPU_CACHE_SHARE = 0.5  # of the memory that is free once the weights are loaded: a trainer may need the rest
BLOCK_SIZE = 16
KV_CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def cache_memory(device: torch.device, gpu_memory_utilization: float | None) -> int:
    """Bytes for the KV cache when the user names none.

    gpu_memory_utilization: share of the GPU's whole memory that weights and cache may take together.
    """
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    free, total = torch.cuda.mem_get_info(device)
    if gpu_memory_utilization is None:
        return int(free * GPU_CACHE_SHARE)
    return max(int(total * gpu_memory_utilization) - (total - free), 0)


def storage_dtype(kv_cache_dtype: str, dtype: torch.dtype) -> torch.dtype:
    """What the keys and values of a model in `dtype` are kept in. Raises UserError for what saves nothing."""
    if kv_cache_dtype == "auto":
        return dtype
    kept = KV_CACHE_DTYPES[kv_cache_dtype]
    if kept != dtype and kept.itemsize >= dtype.itemsize:
        raise UserError(
            f"`kv_cache_dtype` is {kv_cache_dtype!r}, which saves nothing: the model runs in {dtype}",
            hint="use 'auto' or 'int8'",
        )
    return kept


def fit_blocks(token_bytes: int, most: int, max_model_len: int, memory: int) -> int:
    """How many blocks the memory holds, at most as many as all rows can use; at least one sequence must fit."""
    num_blocks = min(most, memory // (token_bytes * BLOCK_SIZE))
    if num_blocks * BLOCK_SIZE < max_model_len:
        needed = -(-max_model_len // BLOCK_SIZE) * BLOCK_SIZE * token_bytes
        lower = f"lower `max_model_len` to {num_blocks * BLOCK_SIZE} or " if num_blocks > 0 else ""
        raise UserError(
            f"one sequence of `max_model_len` {max_model_len} needs {format_bytes(needed)} of KV cache, "
            f"but `kv_cache_memory` is {format_bytes(memory)}",
            hint=f"{lower}raise `kv_cache_memory`",
        )
    return num_blocks
