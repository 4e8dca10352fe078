"""The weights of a GGUF file's tensors.

Public: read_tensor.
"""

from __future__ import annotations

import math
from mmap import mmap

import numpy as np
import torch
from torch import Tensor

from .container import TensorInfo

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHUNK = 1 << 22  # weights that are widened at a time


def read_tensor(data: mmap | bytes, info: TensorInfo) -> Tensor:
    """The weights: plain ones in their own type, quantised ones in float32, exactly as the blocks mean them."""
    raw = np.frombuffer(data, np.uint8, info.num_bytes, info.start)
    if info.kind in PLAIN:
        return torch.from_numpy(raw.copy()).view(PLAIN[info.kind]).view(info.shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind, num_rows = GGMLQuantizationType[info.kind], math.prod(info.shape[:-1])
    rows = raw.reshape(num_rows, -1)
    out = torch.empty(num_rows, info.shape[-1])
    step = max(CHUNK // info.shape[-1], 1)
    for start in range(0, num_rows, step):
        out[start : start + step] = torch.from_numpy(dequantize(rows[start : start + step], kind))
    return out.view(info.shape)
