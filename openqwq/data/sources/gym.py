"""Maths and logic problems from any data set of the `reasoning-gym` library, by name and config."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers.reasoning_gym.verifier import require_supported

BY_SEED = frozenset({"acre", "gsm_symbolic", "list_functions", "word_ladder"})
"""Data sets that have only `size` items or bound their seed to 32 bits: each of our items is a data set's first one."""


class GymSource:
    """One data set of reasoning-gym; item `key` is the library's item of seed `key`."""

    def __init__(self, name: str, config: SourceConfig):
        self.name = name
        self.kind = config.kind or "math"
        self.dataset = config.dataset or name
        self.verifier = config.verifier or "reasoning_gym"
        self.suffix = config.prompt_suffix
        self._options = dict(config.config)
        self._data = _create(name, self.dataset, self._options)
        _refuse_wrong_answers(name, self.dataset, self._data.config)
        if self.verifier == "reasoning_gym":
            require_supported(self.dataset)

    def problem(self, split: str, key: int) -> Problem:
        """The library's item of this seed as a problem; the entry that scores it rides in `answer`."""
        entry = self._by_seed(key) if self.dataset in BY_SEED else self._data[key]
        question = entry["question"].strip() + self.suffix
        return Problem(
            id=f"{self.name}/{split}/{key:x}",
            source=self.name,
            kind=self.kind,
            messages=(Message("user", question),),
            verifier=self.verifier,
            answer={"dataset": self.dataset, "entry": _plain(entry)},
        )

    def _by_seed(self, key: int) -> dict[str, Any]:
        """The first item of the data set whose seed has the split in its top 3 bits, as the key has it above 48."""
        seed = (key >> 48) << 29 | key & (1 << 29) - 1
        return _create(self.name, self.dataset, self._options, seed)[0]


def _create(name: str, dataset: str, options: dict[str, Any], seed: int = 0) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        near = get_close_matches(dataset, DATASETS, n=3)
        raise UserError(
            f"source `{name}` asks reasoning-gym for the data set `{dataset}`, which it has not",
            hint=f"did you mean {', '.join(near)}?" if near else "see the library's gallery for the names",
        )
    known = {f.name for f in fields(DATASETS[dataset][1])} - {"seed", "size"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UserError(
            f"source.{name}.config has the unknown key `{unknown[0]}`",
            hint=f"reasoning-gym's `{dataset}` takes {', '.join(sorted(known))}",
        )
    try:
        return reasoning_gym.create_dataset(dataset, seed=seed, size=1, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"source.{name}.config is refused by reasoning-gym: {error}") from error


def _refuse_wrong_answers(name: str, dataset: str, config: Any) -> None:
    """Raise UserError for options with which the library's own answers are wrong.

    Without parentheses `basic_arithmetic` (0.1.x) works from left to right whatever binds tighter, and a division may
    use another number than the one it shows.
    """
    if dataset != "basic_arithmetic" or config.allow_parentheses:
        return
    operators = set(config.operators)
    if "/" in operators or ("*" in operators and operators & {"+", "-"}):
        raise UserError(
            f"source.{name}.config asks `basic_arithmetic` for {' '.join(sorted(operators))} without parentheses, "
            "for which reasoning-gym's own answers ignore precedence",
            hint='set `allow_parentheses = true`, or `operators = ["+", "-"]`',
        )


def _plain(value: Any) -> Any:
    """JSON values only: the record must survive being written to a file."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
