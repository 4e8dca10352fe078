"""Metrics to TensorBoard, Weights & Biases or trackio, beside `metrics.jsonl`; each imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from openqwq.errors import UserError

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """Takes one row of numbers a step."""

    def log(self, row: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """Several trackers as one; rows are flattened to `table/key` and their texts left out."""

    def __init__(self, trackers: Sequence[Tracker]):
        self._trackers = list(trackers)

    def log(self, row: Mapping[str, Any], step: int) -> None:
        numbers = flat_numbers(row)
        for tracker in self._trackers:
            tracker.log(numbers, step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def open_trackers(names: Sequence[str], folder: str | Path, stage: str, config: Mapping[str, Any]) -> Trackers:
    """The named trackers of one stage of the run in `folder`; their own files go to its `trackers/`.

    Raises UserError for one whose package is not installed.
    """
    run, place = f"{Path(folder).resolve().name}-{stage}", Path(folder) / "trackers"
    return Trackers([_open(name, place, run, stage, config) for name in names])


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by name, those of tables as `table/key`; truth values, texts and None left out."""
    numbers: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[prefix + key] = float(value)
    return numbers


def _open(name: str, place: Path, run: str, stage: str, config: Mapping[str, Any]) -> Tracker:
    try:
        package = importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise UserError(
            f"`trackers` names {name!r}, which is not installed", hint=f"pip install {name}, or take it out"
        ) from error
    if name == "tensorboard":
        return _TensorBoard(package.SummaryWriter(str(place / "tensorboard" / stage)))
    place.mkdir(parents=True, exist_ok=True)
    if name == "wandb":
        own = package.init(project="openqwq", name=run, dir=str(place), config=dict(config))
        return _Online(own.log, own.finish)
    own = package.init(project="openqwq", name=run, config=dict(config))
    return _Online(package.log, package.finish)


class _TensorBoard:
    def __init__(self, writer: Any):
        self._writer = writer

    def log(self, row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Online:
    """wandb and trackio: a function that takes a row and a step, and one that ends the run."""

    def __init__(self, log: Any, finish: Any):
        self._log, self._finish = log, finish

    def log(self, row: Mapping[str, float], step: int) -> None:
        self._log(dict(row), step=step)

    def close(self) -> None:
        self._finish()
