"""The run folder on the writing side: who may write into it, where things lie, and `results.json`.

OUT/recipe.json  results.json  metrics.jsonl  samples.jsonl  report.html  report.md
OUT/checkpoints/<stage>/  OUT/final/      Hugging Face folders
OUT/eval/<stage>.jsonl                    every evaluated completion with its marks
OUT/tokenizer/  chains/  run_state/       what a resumed run needs again
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import openqwq
from openqwq.checkpoint.run_state import RunStateStore
from openqwq.config import Recipe, recipe_to_dict
from openqwq.errors import UserError
from openqwq.eval.families import ScoredCompletion, strict_scores, summarise
from openqwq.eval.targets import TargetResult, check_targets
from openqwq.log import logger, read_json, read_jsonl, torn_file, write_text_atomic

from .extend import changed_stages, check_change

BEGUN = ("run_state", "checkpoints", "eval", "final", "adapters")
"""What a run has that was worth anything: a resumable state, or results."""
PARTS = (
    *BEGUN,
    *("recipe.json", "results.json", "metrics.jsonl", "samples.jsonl", "report.html", "report.md", "seconds.json"),
    *(
        "gates.json",
        "idle.json",
        "finished.json",
        "timeline.jsonl",
        "tokenizer",
        ".tokenizer",
        "chains",
        "trackers",
        "replay",
        ".lock",
    ),
)
"""All that a run writes into its folder."""
LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors", "reasoning-gym", "math-verify")


class RunFolder:
    """An opened run folder: locked against a second writer until it is closed.

    is_writer: of several ranks that work on one run, only the first takes the lock and writes.
    """

    def __init__(self, path: Path, recipe: Recipe, *, is_writer: bool = True):
        self.path = path
        self.recipe = recipe
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self._gate_file, self._idle_file = path / "gates.json", path / "idle.json"
        self._lock = _lock(path) if is_writer else None

    def close(self) -> None:
        """Let others write into the folder."""
        if self._lock is not None:
            os.close(self._lock)

    def take_up(self, resolved: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        """Go on with a changed recipe: what was made at the end of a stage whose length changes is made again."""
        for stage in changed_stages(notes):
            self.evaluation_file(stage).unlink(missing_ok=True)
        write_text_atomic(self.path / "recipe.json", json.dumps(resolved, indent=2, ensure_ascii=False) + "\n")
        for note in notes.values():
            logger.info("changed: %s", note)

    def remove_unless_begun(self) -> None:
        """Take away what a run without any checkpoint has left, so that the next one finds room."""
        if not any((self.path / name).exists() for name in BEGUN):
            remove_run(self.path)

    def evaluation_file(self, stage: str) -> Path:
        return self.path / "eval" / f"{stage}.jsonl"

    def read_evaluation(self, stage: str) -> list[ScoredCompletion] | None:
        """The stage's evaluation, or None while it has none."""
        file = self.evaluation_file(stage)
        return read_scored(file) if file.exists() else None

    def write_evaluation(self, stage: str, rows: list[ScoredCompletion]) -> None:
        file = self.evaluation_file(stage)
        file.parent.mkdir(exist_ok=True)
        lines = (json.dumps(row.to_row(), ensure_ascii=False) for row in rows)
        write_text_atomic(file, "".join(f"{line}\n" for line in lines))

    def write_gate(self, stage: str, steps: int, fell: str) -> None:
        """Note that the stage's regression gate closed after this many steps, and what fell."""
        write_text_atomic(self._gate_file, json.dumps({**self.read_gates(), stage: {"steps": steps, "fell": fell}}))

    def read_gates(self) -> dict[str, dict[str, Any]]:
        """Stage -> what its closed gate says; empty when every gate stayed open."""
        if not self._gate_file.exists():
            return {}
        gates = read_json(self._gate_file)
        if not all(isinstance(gate, dict) and {"steps", "fell"} <= gate.keys() for gate in gates.values()):
            raise torn_file(self._gate_file, "it holds no closed gates")
        return gates

    def write_idle(self, stage: str, why: str) -> None:
        """Note why a stage made no update in any step; an empty reason takes an earlier note back."""
        notes = {**self.read_idle(), stage: why}
        write_text_atomic(self._idle_file, json.dumps({name: text for name, text in notes.items() if text}))

    def read_idle(self) -> dict[str, str]:
        """Stage -> why it made no update in any step."""
        return read_json(self._idle_file) if self._idle_file.exists() else {}

    @property
    def has_results(self) -> bool:
        """Whether `results.json` is there: from the start of the run on, so that a report can be made of it."""
        return (self.path / "results.json").exists()

    def write_results(self, seconds: Mapping[str, float], threads: int) -> list[TargetResult]:
        """`results.json` from the evaluations that are there; the targets that can be judged so far."""
        evaluations = {name: self.read_evaluation(name) for name in self.recipe.stage}
        done = {name: rows for name, rows in evaluations.items() if rows is not None}
        kinds = {row.family: row.kind for rows in done.values() for row in rows}
        targets = check_targets(self.recipe.target, {name: strict_scores(rows) for name, rows in done.items()}, kinds)
        results = {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "stages": [
                {
                    "name": name,
                    "kind": self.recipe.stage[name].kind,
                    "families": {family: result.to_dict() for family, result in summarise(rows).items()},
                }
                for name, rows in done.items()
            ],
            "gates": self.read_gates(),
            "idle": self.read_idle(),
            "seconds": {name: round(s, 3) for name, s in seconds.items()},
            "versions": {**versions(), "threads": threads},
            "targets": [target.to_dict() for target in targets],
        }
        write_text_atomic(
            self.path / "results.json", json.dumps(json_value(results), indent=2, ensure_ascii=False) + "\n"
        )
        return targets


class StageClock:
    """Seconds by stage, kept over interruptions in `seconds.json`; what a kill loses is at most a few seconds."""

    WRITE_EVERY_S = 5.0

    def __init__(self, path: Path, *, is_writer: bool = True):
        self._file = path / "seconds.json"
        self._is_writer = is_writer
        self.seconds: dict[str, float] = read_json(self._file) if self._file.exists() else {}
        if not all(isinstance(value, int | float) for value in self.seconds.values()):
            raise torn_file(self._file, "it holds more than seconds")
        self._stage = ""
        self._since = self._written = time.monotonic()

    def start(self, stage: str) -> None:
        """Count for this stage from now on."""
        self.tick(write=True)
        self._stage = stage

    def tick(self, *, write: bool = False) -> None:
        """Add the time since the last call; write it now and then, or at once."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
        if self._is_writer and (write or now - self._written > self.WRITE_EVERY_S):
            write_text_atomic(self._file, json.dumps(self.seconds))
            self._written = now


def open_run_folder(
    path: str | Path,
    recipe: Recipe,
    *,
    resume: bool,
    overwrite: bool = False,
    code: Mapping[str, str] | None = None,
) -> RunFolder:
    """The folder, made or found again, with `recipe.json` in it.

    overwrite: remove the run that is there. code: digests of the user's own code, kept in `recipe.json`.
    Raises UserError when it holds something else, a run without `resume`, a run of another recipe or with other code,
    or is being written by another process.
    """
    path = Path(path)
    saved = path / "recipe.json"
    resolved = json.loads(json.dumps(recipe_to_dict(recipe)))
    if code:
        resolved["code"] = dict(code)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a run needs a folder", hint="choose another `--out`")
    if overwrite and saved.exists():
        os.close(_lock(path))
        remove_run(path)
    if saved.exists():
        before = read_json(saved)
        notes = _check_same_run(path, before, resolved, resume)
        folder = RunFolder(path, recipe)
        if notes:
            folder.take_up(resolved, notes)
        return folder
    if path.exists() and any(entry.name != ".lock" and not entry.name.endswith(".tmp") for entry in path.iterdir()):
        raise UserError(f"{path} is not empty and holds no run", hint="choose another `--out`, or empty it")
    if resume:
        logger.info("nothing to resume in %s: the run starts at its beginning", path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the run folder {path}: {error.strerror}", hint="choose another `--out`"
        ) from error
    folder = RunFolder(path, recipe)
    write_text_atomic(saved, json.dumps(resolved, indent=2, ensure_ascii=False) + "\n")
    return folder


def remove_run(path: Path) -> None:
    """Remove what a run has written, and the folder where nothing else is in it."""
    for name in PARTS:
        part = path / name
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of the user's own is in it
        path.rmdir()


def read_scored(file: Path) -> list[ScoredCompletion]:
    """The evaluated completions of a file. Raises UserError naming the line that is none."""
    rows = []
    for number, row in enumerate(read_jsonl(file), 1):
        try:
            rows.append(ScoredCompletion.from_row(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise torn_file(file, f"row {number} is no evaluated completion ({error})") from None
    return rows


def versions() -> dict[str, str]:
    """Versions of what made a run."""
    found = {"openqwq": openqwq.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
    }


def _check_same_run(path: Path, saved: dict[str, Any], given: dict[str, Any], resume: bool) -> dict[str, str]:
    """What changes with the given recipe, in words. Raises UserError for a run that cannot be resumed with it."""
    if not resume:
        raise UserError(
            f"{path} already holds a run",
            hint="continue it with `--resume`, replace it with `--overwrite`, or choose another folder with `--out`",
        )
    if changed := [key for key, digest in given.get("code", {}).items() if saved.get("code", {}).get(key) != digest]:
        raise UserError(
            f"{changed[0]} is not what it was when the run in {path} began",
            hint="restore it, or start anew with `--overwrite` or another `--out`",
        )
    saved = {key: value for key, value in saved.items() if key != "code"}
    given = {key: value for key, value in given.items() if key != "code"}
    notes = check_change(path, saved, given, current=RunStateStore(path).latest_stage())
    if list(saved.get("stage", {})) != list(given.get("stage", {})):
        raise UserError(f"{path} was started with its stages in another order", hint="resume with the same recipe")
    return notes


def _lock(path: Path) -> int:
    """An exclusive lock that the system drops when the process ends, however it ends."""
    try:
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write into the run folder {path}: {error.strerror}", hint="choose another `--out`"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"another process is writing to {path}", hint="wait for it, or choose another `--out`"
        ) from None
    return descriptor


def disk_use(path: str | Path) -> dict[str, int]:
    """Bytes of a run by the names in its folder; what several of them share by hard links counts in the first."""
    seen: set[tuple[int, int]] = set()
    sizes: dict[str, int] = {}
    for entry in sorted(Path(path).iterdir()):
        files = [file for file in (entry, *entry.rglob("*")) if file.is_file() and not file.is_symlink()]
        found = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (file.stat() for file in files)}
        sizes[entry.name] = sum(size for inode, size in found.items() if inode not in seen)
        seen |= found.keys()
    return sizes


def json_value(value: Any) -> Any:
    """The value with what JSON cannot say (NaN, infinity) as null."""
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
