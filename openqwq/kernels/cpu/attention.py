"""Attention over the paged cache on a CPU: one row a token (paged_attention.c, rounded_attention.c).

Public: attend_rows, fits, INVARIANT_BLOCK.
Letters: N rows, W blocks a table, P tokens a block, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layouts import CacheLayer
from .library import MAX_BLOCK, MAX_GROUP, MAX_HEAD_DIM, kernels, library, pointers

INVARIANT_BLOCK = 16  # tokens a block: attention sums block by block, so the engine's cache must have the same


def attend_rows(q: Tensor, k: Tensor, v: Tensor, store: CacheLayer, tables: Tensor, positions: Tensor) -> Tensor:
    """Every row's k and v [N, K, D] stored at its position in its blocks, then its q [N, H, D] mixed: [N, H*D].

    A quantized store is widened block by block as it is read.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    tensors = (q, k, v, store.keys, store.values, tables, positions, out)
    sizes = (len(q), tables.shape[1], q.shape[1], k.shape[1], q.shape[2], store.keys.shape[2])
    if store.keys.dtype == torch.float32:
        kernels().attend_paged(*pointers(*tensors), *sizes, torch.get_num_threads())
    else:
        own = pointers(*tensors, store.key_scales, store.value_scales, store.key_offset, store.angles)
        kernels().attend_rounded(*own, *sizes, torch.get_num_threads())
    return out.flatten(1)


def fits(store: CacheLayer, dtype: torch.dtype, group_size: int) -> bool:
    """Whether `attend_rows` takes keys of this dtype over this store, with `group_size` heads for each kv head."""
    keys = store.keys
    small = keys.shape[2] <= MAX_BLOCK and keys.shape[3] <= MAX_HEAD_DIM and group_size <= MAX_GROUP
    known = keys.dtype in (torch.float32, torch.bfloat16, torch.int8)
    return small and known and keys.device.type == "cpu" and dtype == torch.float32 and library() is not None
