"""Resumable checkpoints of a run: all of it or none of it, and never a pickle.

Public: `RunState` (what a run is, as tensors and JSON), `RunStateStore` (saves, finds and reads them),
`capture_rng` and `restore_rng`, `sync`.

A save is one folder: `model/` and one safetensors file for each further group of tensors, and `state.json`
with the stage, the step, the random generators, JSON values, the sizes of the run's log files, and the
size and checksum of every file. It is written under a temporary name, synced, then renamed, so a killed
or failed save leaves the one before it untouched. The newest two are kept, and those that ask for it: one that was
damaged on the disk is recognised by its checksums and the one before it is taken.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openqwq.errors import UserError
from openqwq.log import logger

from .checksums import checksum, record_sum

LOG_FILES = ("metrics.jsonl", "samples.jsonl", "timeline.jsonl")
_STATE_FILE = "state.json"
_KEEP_FILE = "keep"
_WRITING = ".writing-"
_KEPT = 2
_DAMAGED = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a state raises that the disk has changed."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """Where a run stands between two steps.

    step:       steps of the stage that are done.
    model:      weights by name. tensors: further groups, e.g. {"optimizer": {...}}; a group's name is its file's.
    rng:        what `capture_rng` gave. values: anything else that JSON holds (cursors, baselines).
    file_sizes: bytes of each log file at the time of the save, filled in by the store.
    keep:       never prune this one.
    """

    stage: str
    step: int
    model: Mapping[str, Tensor]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    rng: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    file_sizes: Mapping[str, int] = field(default_factory=dict)
    keep: bool = False


class RunStateStore:
    """The resumable checkpoints of one run folder, and the log files that are rewound with them.

    run_folder: where the log files lie; checkpoints go into its `run_state/`.
    log_files:  names of files in it that only grow, e.g. "metrics.jsonl".
    """

    def __init__(self, run_folder: str | Path, log_files: tuple[str, ...] = LOG_FILES):
        self.run_folder = Path(run_folder)
        self.folder = self.run_folder / "run_state"
        self.log_files = log_files

    def save(self, state: RunState, *, describe_model: Callable[[Path], None] | None = None) -> Path:
        """Write the state and give its folder; older ones but the previous and the kept are removed afterwards.

        describe_model: writes what makes the `model/` folder a Hugging Face folder (config, tokenizer).
        Raises UserError when the disk does not take it; the previous checkpoint then still stands.
        """
        serial = max(self._serials(), default=0) + 1
        target, writing = self.folder / f"{serial:08d}", self.folder / f"{_WRITING}{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            self._write(state, writing, describe_model)
            os.replace(writing, target)
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            raise UserError(
                f"the checkpoint of stage `{state.stage}`, step {state.step} could not be written "
                f"to {self.folder}: {error}",
                hint="make room on the disk and continue with `--resume`; the previous checkpoint stands",
            ) from error
        self._prune()
        return target

    def _prune(self) -> None:
        """Remove all but the newest two and those that are to be kept."""
        for serial in self._serials()[:-_KEPT]:
            folder = self.folder / f"{serial:08d}"
            if not (folder / _KEEP_FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def load_latest(self) -> RunState | None:
        """The newest whole state, or None where none was ever saved. Damaged ones are named and passed over.

        Raises UserError when there are checkpoints and every one is damaged.
        """
        serials = self._serials()
        for serial in reversed(serials):
            folder = self.folder / f"{serial:08d}"
            try:
                return _read(folder)
            except _DAMAGED as error:
                logger.warning("checkpoint %s is damaged (%s); taking the one before it", folder, error)
        if serials:
            raise UserError(f"no checkpoint in {self.folder} can be read", hint="start the run anew in another folder")
        return None

    def latest_stage(self) -> str:
        """The stage of the newest state, read from its record alone; empty without a readable state."""
        for serial in reversed(self._serials()):
            try:
                return str(
                    json.loads((self.folder / f"{serial:08d}" / _STATE_FILE).read_text(encoding="utf-8"))["stage"]
                )
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return ""

    def rewind_logs(self, state: RunState) -> None:
        """Cut the log files back to what they held when the state was saved; a shorter one is named."""
        for name in self.log_files:
            size, path = state.file_sizes.get(name, 0), self.run_folder / name
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                logger.warning("%s has %d bytes where the checkpoint knows %d: rows are lost", path, found, size)
            elif found > size:
                os.truncate(path, size)

    def _serials(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def _remove_unfinished(self) -> None:
        for leftover in self.folder.glob(f"{_WRITING}*"):
            shutil.rmtree(leftover)

    def _write(self, state: RunState, folder: Path, describe_model: Callable[[Path], None] | None) -> None:
        (folder / "model").mkdir(parents=True)
        if describe_model:
            describe_model(folder / "model")
        # transformers opens only files whose header says which framework wrote them.
        save_file(_plain(state.model), folder / "model" / "model.safetensors", metadata={"format": "pt"})
        if state.keep:
            (folder / _KEEP_FILE).touch()
        for group, tensors in state.tensors.items():
            save_file(_plain(tensors), folder / f"{group}.safetensors")
        files = {str(p.relative_to(folder)): _sync_and_sum(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        record = {
            "stage": state.stage,
            "step": state.step,
            "values": state.values,
            "rng": state.rng,
            "groups": list(state.tensors),
            "file_sizes": self._synced_log_sizes(),
            "files": files,
        }
        sealed = {**record, "crc32": record_sum(record)}
        (folder / _STATE_FILE).write_text(json.dumps(sealed), encoding="utf-8")
        for path in (folder / _STATE_FILE, folder / "model", folder):
            sync(path)

    def _synced_log_sizes(self) -> dict[str, int]:
        paths = [self.run_folder / name for name in self.log_files]
        for path in paths:
            if path.exists():
                sync(path)
        return {path.name: path.stat().st_size for path in paths if path.exists()}


def capture_rng() -> dict[str, Any]:
    """The states of the process's random generators (Python, numpy, torch, every CUDA device) as JSON."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [s.numpy().tobytes().hex() for s in torch.cuda.get_rng_state_all()],
    }


def restore_rng(rng: Mapping[str, Any]) -> None:
    """Put back what `capture_rng` gave; states of CUDA devices that are not here are left out, and named."""
    version, internal, gauss = rng["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = rng["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes_tensor(rng["torch"]))
    if len(rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes_tensor(s) for s in rng["cuda"]])
    else:
        logger.warning(
            "the checkpoint has %d CUDA generators, this machine %d devices: theirs are not restored",
            len(rng["cuda"]),
            torch.cuda.device_count(),
        )


def _read(folder: Path) -> RunState:
    """The state in a folder. Raises ValueError for a file that is not what was written."""
    record = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    if record.pop("crc32") != record_sum(record):
        raise ValueError(f"{_STATE_FILE} is not what was written")
    for name, expected in record["files"].items():
        if checksum(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
    return RunState(
        stage=record["stage"],
        step=record["step"],
        model=load_file(folder / "model" / "model.safetensors"),
        tensors={group: load_file(folder / f"{group}.safetensors") for group in record["groups"]},
        rng=record["rng"],
        values=record["values"],
        file_sizes=record["file_sizes"],
    )


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _bytes_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _sync_and_sum(path: Path) -> dict[str, int]:
    sync(path)
    return checksum(path)


def sync(path: Path) -> None:
    """Hand a file's or folder's content to the disk before returning."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
