"""Metrics to TensorBoard, Weights & Biases or trackio, beside `metrics.jsonl`; each imported only when asked for.

A tracker shows a run, it is no part of it: one that fails is named in the log and left out from there on.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from openqwq.errors import UserError
from openqwq.log import logger

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
WHERE_INSTALLED = ("tensorboard",)
"""On by default, so it is no mistake of the user's when it is absent."""


class Tracker(Protocol):
    """Takes one row of numbers a step."""

    def log(self, row: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """Several trackers by name as one; rows are flattened to `table/key` and their texts left out."""

    def __init__(self, trackers: Mapping[str, Tracker]):
        self._trackers = dict(trackers)

    def log(self, row: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in flat_numbers(row).items() if name != "step"}
        for name, tracker in list(self._trackers.items()):
            self._keep_on(name, lambda own=tracker: own.log(numbers, step))  # type: ignore[misc]

    def close(self) -> None:
        for name, tracker in list(self._trackers.items()):
            self._keep_on(name, tracker.close)

    def _keep_on(self, name: str, call: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # what they print is not our data
                call()
        except Exception as error:  # a stranger's code, its network and its disk: none of them is worth the run
            logger.warning("the tracker %s failed and is left out from here on: %s", name, error)
            del self._trackers[name]


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for one whose package is not installed, before any work begins."""
    for name in names:
        if name not in WHERE_INSTALLED:
            _package(name)


def open_trackers(
    names: Sequence[str], folder: str | Path, stage: str, config: Mapping[str, Any], *, first_step: int = 0
) -> Trackers:
    """The named trackers of one stage of the run in `folder`; their own files go to its `trackers/`.

    first_step: where the stage begins or resumes; what TensorBoard has of later steps is made again.
    Raises UserError for one whose package is not installed (TensorBoard is left out then), or that cannot start.
    """
    run, place = f"{Path(folder).resolve().name}-{stage}", Path(folder) / "trackers"
    opened = {name: _open(name, place, run, stage, config, first_step) for name in names}
    return Trackers({name: tracker for name, tracker in opened.items() if tracker is not None})


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by name, those of tables as `table/key`; truth values, texts and None left out."""
    numbers: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[prefix + key] = float(value)
    return numbers


def _open(name: str, place: Path, run: str, stage: str, config: Mapping[str, Any], first_step: int) -> Tracker | None:
    package = _package(name)
    if package is None:
        logger.info("%s is not installed: its log is left out", name)
        return None
    if name == "tensorboard":
        return _TensorBoard(package.SummaryWriter(str(place / "tensorboard" / stage), purge_step=first_step))
    place.mkdir(parents=True, exist_ok=True)
    try:
        with redirect_stdout(sys.stderr):
            return _open_online(package, name, place, run, stage, config)
    except Exception as error:
        raise UserError(
            f"the tracker {name!r} could not start: {error}",
            hint="log in to it, set WANDB_MODE=offline, or take it out of `trackers`",
        ) from error


def _package(name: str) -> Any | None:
    """The tracker's package; None where it is absent and need not be there."""
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        if name in WHERE_INSTALLED:
            return None
        raise UserError(
            f"`trackers` names {name!r}, which is not installed", hint=f"pip install {name}, or take it out"
        ) from error


def _open_online(package: Any, name: str, place: Path, run: str, stage: str, config: Mapping[str, Any]) -> Tracker:
    if name == "wandb":
        # one id a folder and stage, so that a resumed stage continues the run that it began
        identity = hashlib.blake2b(f"{place.resolve()}/{stage}".encode(), digest_size=8).hexdigest()
        settings = {"id": identity, "resume": "allow", "dir": str(place)}
        own = package.init(project="openqwq", name=run, config=dict(config), **settings)
        return _Online(own.log, own.finish)
    package.init(project="openqwq", name=run, config=dict(config), resume="allow")
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
