"""One run in several processes: ranks that hold the same weights and share each step's work.

    torchrun --nproc-per-node 2 -m openqwq train RECIPE

A problem's rollouts are sampled and judged by the rank that it falls to, and shown to all, so that every rank computes
the same advantages. Of a step's sequences each rank computes the gradient of its share, and the gradients are summed:
each token's weight has the denominator of the whole batch in it, so the sum is the gradient that one rank alone would
compute, up to the order of additions. Rank 0 writes; weights stay equal because equal gradients meet equal states, and
the checksum of each rollout shows it at every step.

Without torchrun there is one rank, and each of these functions gives back what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# Rank 0 evaluates and saves while the others wait for it; who waits longer waits for a rank that is gone.
_DEADLINE = timedelta(hours=12)


def launched_ranks(*, here: bool = False) -> int:
    """How many processes torchrun has launched, this one among them; 1 without it. here: on this machine only."""
    return int(os.environ.get("LOCAL_WORLD_SIZE" if here else "WORLD_SIZE", "1"))


def is_first_launched() -> bool:
    """Whether torchrun launched this process as the first one; true without it."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def ranks() -> Iterator[None]:
    """Within this block the launched processes work together: over gloo on CPUs, NCCL on GPUs."""
    if launched_ranks() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_DEADLINE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def num_ranks() -> int:
    """How many ranks work together now."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the rank that writes files and evaluates."""
    return rank() == 0


def wait_for_all() -> None:
    """Until every rank is here."""
    if num_ranks() > 1:
        dist.barrier()


def after_first(make: Callable[[], T]) -> T:
    """What `make` gives, made by rank 0 before the others, which find its files."""
    if is_first():
        made = make()
        wait_for_all()
        return made
    wait_for_all()
    return make()


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, on every rank; the others do not call it."""
    if num_ranks() == 1:
        return make()
    box = [make() if is_first() else None]
    dist.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order."""
    if num_ranks() == 1:
        return [value]
    values: list[T] = [value] * num_ranks()
    dist.all_gather_object(values, value)
    return values


def deal(items: Sequence[T]) -> list[T]:
    """This rank's items of a list that all have: every n-th one."""
    return list(items[rank() :: num_ranks()])


def collect_dealt(items: Sequence[T]) -> list[T]:
    """The whole list from the ranks' parts of it, in the order that `deal` took them from."""
    parts = gather(list(items))
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def own_share(sizes: Sequence[int]) -> list[int]:
    """Numbers of the items that this rank computes, in order: the largest first, each to the rank with the least."""
    if num_ranks() == 1:
        return list(range(len(sizes)))
    loads, shares = [0] * num_ranks(), [[] for _ in range(num_ranks())]  # type: ignore[var-annotated]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = loads.index(min(loads))
        loads[least] += sizes[index]
        shares[least].append(index)
    return sorted(shares[rank()])


def total(*numbers: float) -> list[float]:
    """Each number summed over the ranks."""
    return [sum(column) for column in zip(*gather(numbers), strict=True)]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the sum of the ranks' gradients; a parameter without one counts as zeros."""
    if num_ranks() == 1:
        return
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_type.setdefault(parameter.dtype, []).append(parameter)
    for own in by_type.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for parameter, piece in zip(own, flat.split([p.numel() for p in own]), strict=True):
            parameter.grad = piece.view_as(parameter)


def gather_tokens(observed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Observations of all ranks' tokens, end to end; a rank without tokens has none."""
    if num_ranks() == 1:
        return observed
    device = next((t.device for t in observed.values()), torch.device("cpu"))
    parts = [part for part in gather({name: t.cpu() for name, t in observed.items()}) if part]
    return {name: torch.cat([part[name] for part in parts]).to(device) for name in parts[0]} if parts else {}
