"""One choice of kernels: every operation of a decoder, by the fastest kernels that this device has.

`choose_ops` is the only place where a backend is chosen. A backend falls back to PyTorch's operators for shapes and
dtypes that its kernels do not take; that is its own business, and changes rounding only.

Public: Ops, ReferenceOps, CpuOps, InvariantOps, TritonOps, REFERENCE, Backend, choose_ops.
Letters: N tokens, M rows, R rows of documents, I inputs, O outputs, V vocabulary, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.log import logger

from . import reference
from .cpu import attention as cpu_attention
from .cpu import documents as cpu_documents
from .cpu import invariant as cpu_invariant
from .cpu import packed as cpu_packed
from .cpu import products
from .cpu.library import MAX_GROUP, MAX_HEAD_DIM, library, library_origin, missing_reason
from .cpu.sampling import SamplingKernel, SamplingSettings
from .documents import Documents
from .layouts import CacheLayer, PackedWeights

Backend = Literal["auto", "reference", "triton"]


class Ops(Protocol):
    """The operations of a decoder: tensors in, tensors out, with gradients where training needs them.

    name:       as the log and `openqwq doctor` show it.
    invariant:  a token's row depends on its own sequence alone, whatever runs beside it.
    block_size: tokens a cache block must have; None: any.
    fused:      which whole decoder pass goes with it: "cpu" (C), "triton", or None.
    packed_for_gpu: whether `packed_linear` reads bf16 and int4 codes laid out for a GPU.
    """

    name: str
    invariant: bool
    block_size: int | None
    fused: Literal["cpu", "triton"] | None
    packed_for_gpu: bool

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] weight^T [O, I] + bias [O]: [..., O]."""

    def multiply(self, a: Tensor, b: Tensor, *, out: Tensor | None = None, adds: bool = False) -> Tensor:
        """a [M, K] b [K, N]: [M, N], without a gradient; `adds`: added to what `out` holds."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight of rows [..., I] (arXiv:1910.07467)."""

    def swiglu(self, gate: Tensor, up: Tensor, beta: float) -> Tensor:
        """gate * sigmoid(beta gate) * up of rows [..., I] (arXiv:2002.05202)."""

    def rotate(self, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        """x [N, H, D] rotated by its position's angles [N, 1, D]."""

    def attend_documents(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
        """Causal attention within documents: [R, H*D] from q [R, H, D], k and v [R, K, D]."""

    def attends_rows(self, store: CacheLayer, dtype: torch.dtype, group_size: int) -> bool:
        """Whether `attend_rows` takes rows of this dtype over this store."""

    def attend_rows(
        self, q: Tensor, k: Tensor, v: Tensor, store: CacheLayer, tables: Tensor, positions: Tensor
    ) -> Tensor:
        """Rows' k and v [N, K, D] stored at their positions in their blocks, then q [N, H, D] mixed: [N, H*D]."""

    def takes_packed(self, rows: Tensor) -> bool:
        """Whether `packed_linear` takes these rows."""

    def packed_linear(self, rows: Tensor, weights: PackedWeights, num_outputs: int) -> Tensor:
        """[M, O] of rows [M, I] and narrow weights laid out as layouts.py says."""

    def widen_panels(self, weights: PackedWeights, out: Tensor) -> Tensor:
        """Narrow weights in float32 [p, 8, B, 128] of the first p panels; `out` [p, 8, B, 128] may hold them."""

    def token_logprobs(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-prob of each target [M] under softmax(logits [M, V]), and the logsumexp [M]."""

    def make_sampler(self, table: SamplingSettings) -> SamplingKernel | None:
        """What samples all rows of a table in one call; None: the engine's `sample` does."""


class ReferenceOps:
    """PyTorch's operators, on every device and in every dtype."""

    name = "reference"
    invariant = False
    block_size: int | None = None
    fused: Literal["cpu", "triton"] | None = None
    packed_for_gpu = False

    linear = staticmethod(reference.linear)
    rms_norm = staticmethod(reference.rms_norm)
    swiglu = staticmethod(reference.swiglu)
    rotate = staticmethod(reference.rotate)
    attend_documents = staticmethod(reference.attend_documents)
    token_logprobs = staticmethod(reference.token_logprobs)

    def multiply(self, a: Tensor, b: Tensor, *, out: Tensor | None = None, adds: bool = False) -> Tensor:
        return out.addmm_(a, b) if adds and out is not None else torch.mm(a, b, out=out)

    def attends_rows(self, store: CacheLayer, dtype: torch.dtype, group_size: int) -> bool:
        return False

    def attend_rows(
        self, q: Tensor, k: Tensor, v: Tensor, store: CacheLayer, tables: Tensor, positions: Tensor
    ) -> Tensor:
        raise ValueError(f"the {self.name} operations gather rows: see `attends_rows`")

    def takes_packed(self, rows: Tensor) -> bool:
        return False

    def packed_linear(self, rows: Tensor, weights: PackedWeights, num_outputs: int) -> Tensor:
        raise ValueError(f"the {self.name} operations widen weights first: see `takes_packed`")

    def widen_panels(self, weights: PackedWeights, out: Tensor) -> Tensor:
        return reference.widen_panels(weights, len(out)).transpose(1, 2)

    def make_sampler(self, table: SamplingSettings) -> SamplingKernel | None:
        return None


class CpuOps(ReferenceOps):
    """The C kernels of `cpu/` in float32 on a CPU, where they are faster; sums in any order."""

    name = "cpu"
    fused: Literal["cpu", "triton"] | None = "cpu"

    linear = staticmethod(products.linear)

    def multiply(self, a: Tensor, b: Tensor, *, out: Tensor | None = None, adds: bool = False) -> Tensor:
        return products.multiply(a, b, out=out, adds=adds)

    def attend_documents(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
        if cpu_documents.fits(q, k):
            return cpu_documents.attend_documents(q, k, v, documents)
        return reference.attend_documents(q, k, v, documents)

    def attends_rows(self, store: CacheLayer, dtype: torch.dtype, group_size: int) -> bool:
        return cpu_attention.fits(store, dtype, group_size)

    def attend_rows(
        self, q: Tensor, k: Tensor, v: Tensor, store: CacheLayer, tables: Tensor, positions: Tensor
    ) -> Tensor:
        return cpu_attention.attend_rows(q, k, v, store, tables, positions)

    def takes_packed(self, rows: Tensor) -> bool:
        return 0 < len(rows) <= cpu_packed.MAX_ROWS and rows.dtype == torch.float32 and not rows.requires_grad

    def packed_linear(self, rows: Tensor, weights: PackedWeights, num_outputs: int) -> Tensor:
        return cpu_packed.multiply(rows, weights, num_outputs)

    def widen_panels(self, weights: PackedWeights, out: Tensor) -> Tensor:
        cpu_packed.widen(weights, out)
        return out

    def make_sampler(self, table: SamplingSettings) -> SamplingKernel | None:
        return SamplingKernel.of(table)


class InvariantOps(CpuOps):
    """Kernels with a fixed order of sums: a row's bits do not depend on what else is computed (cpu/invariant.py)."""

    name = "cpu-invariant"
    invariant = True
    block_size: int | None = cpu_attention.INVARIANT_BLOCK

    linear = staticmethod(cpu_invariant.linear)
    rms_norm = staticmethod(cpu_invariant.rms_norm)
    swiglu = staticmethod(cpu_invariant.swiglu)
    rotate = staticmethod(cpu_invariant.rotate)
    attend_documents = staticmethod(cpu_invariant.attend_documents)  # type: ignore[assignment]
    token_logprobs = staticmethod(cpu_invariant.token_logprobs)


class TritonOps(ReferenceOps):
    """Our Triton kernels for decoding on a GPU; all else is PyTorch's. Opt in: they are not proven on every GPU."""

    name = "triton"
    fused: Literal["cpu", "triton"] | None = "triton"
    packed_for_gpu = True

    def takes_packed(self, rows: Tensor) -> bool:
        return len(rows) > 0 and not rows.requires_grad and rows.device.type == "cuda"

    def packed_linear(self, rows: Tensor, weights: PackedWeights, num_outputs: int) -> Tensor:
        from .triton.packed import multiply_packed, packed_weights  # Triton compiles for the GPU that is there

        return multiply_packed(rows, packed_weights(weights, (num_outputs, rows.shape[1])))


REFERENCE: Ops = ReferenceOps()
CPU: Ops = CpuOps()
INVARIANT: Ops = InvariantOps()
TRITON: Ops = TritonOps()


def choose_ops(
    device: torch.device | str, dtype: torch.dtype, *, invariant: bool = False, backend: Backend = "auto"
) -> Ops:
    """The operations for tensors on this device in this dtype.

    invariant: batch-invariant kernels; Raises UserError with the reason where they are not available.
    backend:   "auto": C kernels on a CPU, PyTorch's on a GPU; "reference": PyTorch's everywhere; "triton": our Triton
               kernels on a GPU. Raises UserError where the backend is not available.
    """
    place = torch.device(device).type
    if invariant:
        if reason := invariant_obstacle(place, dtype):
            raise UserError(
                f"`batch_invariant` is not available: {reason}", hint="leave it off: it changes rounding only"
            )
        return INVARIANT
    if backend == "triton":
        if place != "cuda" or find_spec("triton") is None:
            raise UserError(f"the Triton kernels are not available on {place}", hint='leave `kernels = "auto"`')
        return TRITON
    if backend == "auto" and place == "cpu" and dtype == torch.float32 and library() is not None:
        return CPU
    return REFERENCE


def invariant_obstacle(place: str, dtype: torch.dtype) -> str:
    """Why batch-invariant kernels are not available for this kind of device and dtype; "" where they are."""
    if place != "cpu" or dtype != torch.float32:
        return f"the weights are {dtype} on {place}, but the mode is for float32 on a CPU"
    return missing_reason()


def shape_obstacle(num_heads: int, num_kv_heads: int, head_dim: int) -> str:
    """Why batch-invariant kernels do not take attention of this shape; "" where they do."""
    if num_heads > MAX_GROUP * num_kv_heads or head_dim > MAX_HEAD_DIM:
        return f"its kernels end at {MAX_GROUP} heads a kv head and {MAX_HEAD_DIM} numbers a head"
    return ""


@lru_cache
def log_choice(name: str, place: str, dtype: torch.dtype) -> None:
    """Log once which kernels compute, and why."""
    logger.info("kernels: %s", describe_choice(name, place, dtype))


def describe_choice(name: str, place: str, dtype: torch.dtype) -> str:
    """The kernels and the reason for the choice, in one line."""
    if name in ("cpu", "cpu-invariant"):
        return f"{name} (C kernels {library_origin()}, {dtype} on a CPU)".replace("torch.", "")
    if place == "cpu" and dtype == torch.float32 and missing_reason():
        return f"{name} (PyTorch's operators: {missing_reason()})"
    return f"{name} ({dtype} on {place})".replace("torch.", "")
