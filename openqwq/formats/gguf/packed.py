"""Q4_0 matrices as the int4 layers that they are: in the tensors of a GPTQ folder (version 2) with groups of 32 inputs.

A weight is d (q - 8) in both. The other types have minimums, tables or scales of scales, and are widened.

Public: stays_packed, packed_tensors, PACKED_CONFIG.
"""

from __future__ import annotations

from mmap import mmap

import numpy as np
import torch
from torch import Tensor

from .config import EMBEDDING
from .container import TensorInfo

KIND, GROUP, BLOCK_BYTES, ZERO = "Q4_0", 32, 18, 8
WORD = 8  # codes in an int32
PACKED_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"}


def stays_packed(info: TensorInfo) -> bool:
    """Whether a tensor is a layer of whole words of int4 codes; the embedding is looked up, not multiplied by."""
    return info.kind == KIND and info.name != EMBEDDING and len(info.shape) == 2 and info.shape[0] % WORD == 0


def packed_tensors(data: mmap | bytes, info: TensorInfo, rows: Tensor | None = None) -> dict[str, Tensor]:
    """`qweight`, `qzeros` and `scales` of a layer. rows: the order in which its outputs are taken; None: the file's."""
    num_outputs, num_inputs = info.shape
    raw = torch.from_numpy(np.frombuffer(data, np.uint8, info.num_bytes, info.start).copy())
    blocks = raw.view(num_outputs, num_inputs // GROUP, BLOCK_BYTES)
    blocks = blocks if rows is None else blocks[rows]
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]  # [N, G]
    nibbles = torch.cat((blocks[..., 2:] & 15, blocks[..., 2:] >> 4), -1)  # [N, G, 32]
    octets = nibbles.view(num_outputs, num_inputs // WORD, WORD)
    words = (octets[..., 0::2] | octets[..., 1::2] << 4).contiguous().view(torch.int32)[..., 0]  # [N, K/8]
    zeros = torch.full((scales.shape[1], num_outputs // WORD), ZERO * 0x11111111 - (1 << 32), dtype=torch.int32)
    return {"qweight": words.T.contiguous(), "qzeros": zeros, "scales": scales.T.contiguous()}
