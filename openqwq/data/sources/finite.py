"""Sources that hold a fixed list of problems, cut into a part to train on, one to evaluate on and one for the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openqwq.errors import UserError
from openqwq.types import Problem

LEAST = 3
"""Fewer problems leave nothing to train on: one is for the evaluation and one for the gate."""


class FiniteSource:
    """A source of which a key picks a problem of the split's own part; splits without one are trained on."""

    def __init__(self, name: str, kind: str, verifier: str, parts: Mapping[str, Sequence[Problem]]):
        self.name, self.kind, self.verifier = name, kind, verifier
        self._parts = parts

    def part(self, split: str) -> Sequence[Problem]:
        """All problems of the split's part, in their order."""
        return self._parts[split if split in self._parts else "train"]

    def problem(self, split: str, key: int) -> Problem:
        """A problem of the split's part."""
        part = self.part(split)
        return part[key % len(part)]


def cut_parts(
    problems: list[Problem], name: str, where: str, *, held_out: list[Problem] | None = None, least: int = LEAST
) -> dict[str, list[Problem]]:
    """By position, one in ten is held out and one in ten serves the gate.

    held_out: problems of a file of their own, in place of the tenth. Raises UserError for fewer than `least` problems.
    """
    if held_out is not None:
        gate = problems[1::10] if len(problems) >= LEAST else held_out
        train = [p for i, p in enumerate(problems) if i % 10 != 1] if len(problems) >= LEAST else problems
        return {"held_out": held_out, "gate": gate, "train": train}
    if len(problems) < least:
        raise UserError(
            f"source `{name}`: {where} holds {len(problems)} problems, and {least} are the least",
            hint="a tenth is held out for evaluation and a tenth for the gate; add rows, or set `held_out_path`",
        )
    return {
        "held_out": problems[0::10],
        "gate": problems[1::10],
        "train": [problem for i, problem in enumerate(problems) if i % 10 > 1],
    }
