"""Rollouts kept in a file: written by a run that only samples, read by one that only trains.

One JSON line a rollout, with everything that training reads: token ids, loss mask, log-probs, policy versions,
verdict and reward. `step` and `group` say where it belongs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.log import logger, write_text_atomic
from openqwq.types import Problem, Rollout, Verdict

from .collector import Attempt, Experience, needs_spread, with_advantages

_IDS = ("prompt_ids", "completion_ids", "loss_mask", "rollout_logprobs", "policy_versions")


def check_new(file: str | Path, *, resume: bool) -> None:
    """Raises UserError when there is such a file of rollouts already, or its state, and it is not to be resumed."""
    if not resume and (Path(file).exists() or Path(f"{file}.state.json").exists()):
        raise UserError(
            f"{file} exists already", hint="continue it with `--resume`, or choose another name for the rollouts"
        )


class RolloutFile:
    """A file that takes the rollouts of one step after another; FILE.state.json beside it says how far it is.

    made_by: what the rollouts depend on, as JSON values. resume: continue after the file's last whole step.
    steps, rollouts: how many the file has. problems: the state of the problems' source after them, where it has one.
    Raises UserError when there is such a file already, without `resume`; with it, when the file was made by something
    else, is shorter than it was, or when its state cannot be read.
    """

    def __init__(self, file: str | Path, made_by: Mapping[str, Any], *, resume: bool = False):
        self.file, self._state_file = Path(file), Path(f"{file}.state.json")
        self._made_by = json.loads(json.dumps(made_by))
        self.steps, self.rollouts = 0, 0
        self.problems: Mapping[str, Any] | None = None
        check_new(file, resume=resume)
        if self.file.exists() or self._state_file.exists():
            self._go_on()
        elif resume:
            logger.info("nothing to resume in %s: it starts at its beginning", file)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()
        except OSError as error:
            raise UserError(f"cannot write the rollouts {file}: {error.strerror}") from error

    def append(self, experience: Experience, problems: Mapping[str, Any] | None = None) -> None:
        """Add a step's rollouts, whole or not at all."""
        with open(self.file, "a", encoding="utf-8") as out:
            for number, group in enumerate(experience.groups):
                for attempt in group:
                    out.write(json.dumps(attempt_row(attempt, self.steps, number), ensure_ascii=False) + "\n")
                    self.rollouts += 1
            size = out.tell()
        self.steps, self.problems = self.steps + 1, problems
        state = {"steps": self.steps, "rollouts": self.rollouts, "bytes": size, "problems": problems}
        write_text_atomic(self._state_file, json.dumps({**state, "made_by": self._made_by}) + "\n")

    def _go_on(self) -> None:
        """Take up the state, and cut off the step that was being written."""
        hint = "write the rollouts to another file"
        if not self._state_file.exists():
            if self.file.stat().st_size:
                raise UserError(f"{self.file} has no {self._state_file.name} next to it to resume from", hint=hint)
            return
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
            made_by, size = state["made_by"], int(state["bytes"])
            self.steps, self.rollouts, self.problems = state["steps"], state["rollouts"], state["problems"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{self._state_file} is not the state of a rollout file", hint=hint) from error
        if made_by != self._made_by:
            changed = [name for name in self._made_by if made_by.get(name) != self._made_by[name]]
            raise UserError(f"{self.file} was begun with another {' and '.join(changed)}", hint=hint)
        if not self.file.exists() or self.file.stat().st_size < size:
            raise UserError(f"{self.file} has lost rollouts that it had", hint=hint)
        with open(self.file, "r+b") as file:
            file.truncate(size)


class Replay:
    """The rollouts of a file in place of the policy's own, step by step as they were written.

    Rewards are those of the file; advantages are made anew, as the stage says.
    Raises UserError for a file that cannot be read, has no rollouts, or has a line that is no rollout.
    """

    def __init__(self, file: str | Path, stage: RLStage):
        self.stage = stage
        self._steps: dict[int, dict[int, list[tuple[Rollout, Verdict, float]]]] = {}
        for number, row in _read_rows(Path(file)):
            try:
                step, group = int(row["step"]), int(row["group"])
                self._steps.setdefault(step, {}).setdefault(group, []).append(read_attempt(row))
            except (KeyError, TypeError, ValueError) as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{file}:{number} is not a trainable rollout: {why}",
                    hint="`openqwq train --rollout-only` writes such files; samples.jsonl holds texts alone",
                ) from error
        if not self._steps:
            raise UserError(f"{file} holds no rollouts")
        self._order = sorted(self._steps)

    @property
    def steps(self) -> int:
        """How many steps the file has."""
        return len(self._order)

    def collect(self, step: int) -> Experience:
        """The groups of the file's step number `step`, counted from 0."""
        groups = list(self._steps[self._order[step]].values())
        rollouts, verdicts, rewards = zip(*(entry for group in groups for entry in group), strict=True)
        made = with_advantages([len(group) for group in groups], rollouts, verdicts, rewards, self.stage)
        return Experience(groups=made, needs_spread=needs_spread(self.stage))


def attempt_row(attempt: Attempt, step: int, group: int) -> dict[str, Any]:
    """A rollout with verdict and reward as JSON."""
    rollout, verdict = attempt.rollout, attempt.verdict
    return {
        "step": step,
        "group": group,
        **{name: list(getattr(rollout, name)) for name in _IDS},
        "text": rollout.text,
        "finish_reason": rollout.finish_reason,
        "status": rollout.status,
        "error": rollout.error,
        "verdict": asdict(verdict),
        "reward": None if math.isnan(attempt.reward) else attempt.reward,
        "problem": rollout.problem.to_dict(),
        "weight_checksums": dict(rollout.weight_checksums),
        "thinking_opened": rollout.thinking_opened,
        "kept_ids": [list(own) for own in rollout.kept_ids],
    }


def read_attempt(row: Mapping[str, Any]) -> tuple[Rollout, Verdict, float]:
    """Inverse of `attempt_row`. Raises KeyError, TypeError or ValueError for a row of another shape."""
    ids: dict[str, Any] = {name: tuple(row[name]) for name in _IDS}
    lengths = {name: len(ids[name]) for name in _IDS if name != "prompt_ids"}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"streams of unequal lengths: {lengths}")
    rest = {name: row[name] for name in ("text", "finish_reason", "status", "error")}
    kept = tuple(map(tuple, row.get("kept_ids", ())))
    if kept and any(own and token not in own for own, token in zip(kept, ids["completion_ids"], strict=True)):
        raise ValueError("a token is not among the ids that it was drawn from")
    checksums = {int(version): name for version, name in row.get("weight_checksums", {}).items()}
    rollout = Rollout(
        problem=Problem.from_dict(row["problem"]),
        weight_checksums=checksums,
        kept_ids=kept,
        thinking_opened=row.get("thinking_opened"),
        **ids,
        **rest,
    )
    return rollout, Verdict(**row["verdict"]), math.nan if row["reward"] is None else float(row["reward"])


def _read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = file.read_bytes().splitlines()  # texts hold further kinds of line ends, bytes do not
        return [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read the rollouts in {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not made of JSON lines: {error}") from error
