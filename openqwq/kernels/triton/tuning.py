"""The quickest tiling of a product, measured on the GPU that is there, over all layers in turn.

Kernels of one layer alone would be timed on weights that lie in the GPU's cache. A tiling that does not compile, or
whose result is not the reference's, is left out with a line in the log. Compiling takes about a second each and is
kept by Triton in the user's cache folder.

Public: candidates, choose_tiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openqwq.log import logger

from .linear import Tiling, Weights, default_tiling, multiply

LEAST_THREADS, MOST_THREADS = 1 << 14, 1 << 19  # of one product, for an H100's or H200's 132 multiprocessors
SPLITS = (1, 2, 4, 8)
MOST_SPLIT_ROWS = 128  # splits times rows: the room for their results
MAX_LAYERS = 16  # that are timed: enough weights to overflow the cache
TOLERANCE = 2e-2  # of a bf16 product's largest number


def candidates(weights: Weights, rows: int) -> list[Tiling]:
    """The tilings worth measuring for so many rows."""
    n_out = weights.shape[0]
    shapes = _sum_shapes(weights) if rows == 1 else []
    found = [Tiling("library")] if weights.layout == "dense" else []
    for shape in shapes + _dot_shapes(weights, rows):
        threads = 32 * shape.warps * -(-n_out // shape.outputs)
        splits = [s for s in SPLITS if s == 1 or s * rows <= MOST_SPLIT_ROWS]
        fitting = [s for s in splits if LEAST_THREADS <= threads * s <= MOST_THREADS]
        found += [replace(shape, splits=s) for s in fitting or [splits[-1] if threads < LEAST_THREADS else 1]]
    return found


def _sum_shapes(weights: Weights) -> list[Tiling]:
    """Inputs are as many as the threads read at 16 bytes each: each then holds the numbers that it multiplies by."""
    if weights.layout == "words":
        shapes: tuple[tuple[int, int, int, int], ...] = (
            (4, 1024, 1, 1),
            (8, 1024, 1, 1),
            (16, 1024, 1, 1),
            (8, 2048, 2, 1),
            (8, 1024, 1, 3),
        )
    elif weights.codes.element_size() == 1:
        shapes = ((8, 512, 1, 1), (8, 1024, 2, 1), (16, 512, 4, 1))
    else:
        shapes = ((4, 1024, 4, 1), (8, 1024, 4, 1), (8, 512, 2, 1), (4, 1024, 4, 3))
    return [Tiling("sum", outputs=o, inputs=i, warps=w, stages=s) for o, i, w, s in shapes]


def _dot_shapes(weights: Weights, rows: int) -> list[Tiling]:
    if weights.layout == "words":
        return [Tiling("dot", outputs=64, inputs=128, warps=4, stages=stages) for stages in (3, 5)]
    if rows > 64 and weights.layout == "dense":
        return []
    return [
        Tiling("dot", outputs=64, inputs=128, warps=4, stages=4),
        Tiling("dot", outputs=32, inputs=256, warps=4, stages=3),
    ]


def choose_tiling(name: str, layers: Sequence[Weights], x: Tensor, room: Tensor) -> Tiling:
    """The quickest tiling of x [M, K] by layers of one shape.

    room: at least max(MOST_SPLIT_ROWS, M) * N float32 numbers, overwritten. name: what the log calls the product.
    """
    layers = layers[:MAX_LAYERS]
    rows, n_out = len(x), layers[0].shape[0]
    reference: Tensor | None = None
    best, least = default_tiling(layers[0], rows), float("inf")
    for tiling in candidates(layers[0], rows):
        out = output_of(tiling, room, rows, n_out, x.dtype)
        try:
            multiply(x, layers[0], out, tiling)
            result = out.float().sum(0)
            reference = result if reference is None else reference
            if not float((result - reference).abs().max()) <= TOLERANCE * float(reference.abs().max()):
                raise ValueError("its result differs")
            seconds = _seconds(x, layers, out, tiling)
        except Exception as error:  # whatever a compiler raises for a shape that it cannot do
            logger.warning("%s of %d rows leaves out %s: %s", name, rows, tiling, str(error).split("\n")[0])
            continue
        if seconds < least:
            best, least = tiling, seconds
    gigabytes = sum(t.numel() * t.element_size() for t in (layers[0].codes, layers[0].scales) if t is not None) / 1e9
    logger.info("%s of %d rows: %s, %.1f us, %.0f GB/s", name, rows, best, least * 1e6, gigabytes / least)
    return best


def output_of(tiling: Tiling, room: Tensor, rows: int, n_out: int, dtype: torch.dtype) -> Tensor:
    """A view [S, M, N] of the room: float32, or the dtype of PyTorch's own product."""
    if tiling.kernel == "library":
        room = room.view(dtype)
    return room[: tiling.splits * rows * n_out].view(tiling.splits, rows, n_out)


def _seconds(x: Tensor, layers: Sequence[Weights], out: Tensor, tiling: Tiling) -> float:
    """Of one product: the best of three replays over the layers. Without a graph one would time the launches."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):  # `torch.cuda.graph` would collect garbage each time
        graph.capture_begin(capture_error_mode="thread_local")
        for weights in layers:
            multiply(x, weights, out, tiling)
        graph.capture_end()
    torch.cuda.synchronize()
    times = []
    for _ in range(3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(layers))
    return min(times)
