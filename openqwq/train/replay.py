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
from openqwq.types import Problem, Rollout, Verdict

from .experience import Attempt, Collects, Experience, needs_spread, with_advantages

_IDS = ("prompt_ids", "completion_ids", "loss_mask", "rollout_logprobs", "policy_versions")


def write_rollouts(collector: Collects, steps: range, file: str | Path) -> int:
    """Collect the steps' rollouts without training on them, one JSON line each; how many there are.

    The file is written anew, step by step.
    """
    count = 0
    with open(file, "w", encoding="utf-8") as out:
        for step in steps:
            for number, group in enumerate(collector.collect(step).groups):
                for attempt in group:
                    out.write(json.dumps(attempt_row(attempt, step, number), ensure_ascii=False) + "\n")
                    count += 1
            out.flush()
    return count


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
                    f"{file}:{number} is no rollout that can be trained on: {why}",
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
        problem=Problem.from_dict(row["problem"]), weight_checksums=checksums, kept_ids=kept, **ids, **rest
    )
    return rollout, Verdict(**row["verdict"]), math.nan if row["reward"] is None else float(row["reward"])


def _read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = file.read_bytes().splitlines()  # texts hold further kinds of line ends, bytes do not
        return [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read the rollouts in {file}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is not made of JSON lines: {error}") from error
