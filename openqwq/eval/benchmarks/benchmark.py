"""What a benchmark is: one frozen object, with no code of its own but the mapper of its rows.

Public: `Benchmark`, `Protocol`, `Source`, `DataFile`, `Published`, `Item`, `render_prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from openqwq.errors import UserError
from openqwq.rows import RowError
from openqwq.types import Message, Problem

PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
r"""A column in a prompt; `\boxed{}` and `\frac{1}{2}` are none."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How answers are sampled.

    samples: answers to each problem. source: who published the protocol.
    """

    name: str
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    samples: int
    source: str

    def sampling(self) -> dict[str, float | int]:
        """The values that reach the sampler, with vLLM's names."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file of the benchmark as its owners publish it: where it is, and its hash."""

    origin: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from: a data set of the hub at a revision (empty: the newest), and files that are known."""

    hub: str = ""
    subset: str = ""
    split: str = "test"
    revision: str = ""
    files: tuple[DataFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published score in points of 100; samples: answers to each problem, None where it is not said."""

    model: str
    score: float
    samples: int | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """What a mapper makes of a row.

    key:    the row's own name; empty: its number.
    values: texts for the placeholders of the prompt.
    answer: what the verifier needs.
    group:  rows of one group are not independent (a contest); empty: each row stands alone.
    """

    key: str = ""
    values: Mapping[str, str]
    answer: Any
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark; the score is the mean over problems of the mean over a problem's samples (avg@k).

    version:      changes with the prompt, the mapper or the verifier's options.
    mapper:       row -> Item; raises RowError for a row that it cannot read.
    prompt:       the user's turn, with `{column}` for the mapper's texts.
    protocols:    the first is the default.
    num_problems: of the published set; 0 where it is not known.
    needs:        what a run needs besides a model.
    known_bad:    key -> what is wrong with the problem. The score is given with and without them.
    dates:        first and last day of a window; rows outside are left out by their `contest_date`.
    """

    name: str
    version: str = "1"
    kind: str
    source: Source
    mapper: Callable[[Mapping[str, Any]], Item]
    prompt: str
    protocols: tuple[Protocol, ...]
    verifier: str
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    num_problems: int = 0
    needs: str = ""
    licence: str = ""
    published: tuple[Published, ...] = ()
    known_bad: Mapping[str, str] = field(default_factory=dict)
    dates: tuple[str, str] | None = None

    def protocol(self, name: str | None) -> Protocol:
        """The protocol of that name; None: the default. Raises UserError, naming the nearest."""
        names = [protocol.name for protocol in self.protocols]
        if name is None:
            return self.protocols[0]
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(names)}"
            raise UserError(f"the benchmark `{self.name}` has no protocol `{name}`", hint=hint)
        return self.protocols[names.index(name)]

    def problems(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Problem]:
        """A problem for each row in the window; rows come with their place, for messages.

        Raises UserError for an unreadable row, an empty question, and two rows of one key.
        """
        found: dict[str, Problem] = {}
        for number, (where, row) in enumerate(rows):
            if not self._is_in_window(row, where):
                continue
            try:
                problem = self._problem(self.mapper(row), number)
            except RowError as error:
                raise UserError(
                    error.why_no(where, f"row of `{self.name}`"), hint="see docs/evaluate.md for the layouts"
                ) from error
            if problem.id in found:
                raise UserError(f"{where}: the key `{problem.id}` was there before", hint="take one of the rows out")
            found[problem.id] = problem
        if not found:
            raise UserError(f"the data of `{self.name}` has no rows" + (" in its window" if self.dates else ""))
        return list(found.values())

    def _is_in_window(self, row: Mapping[str, Any], where: str) -> bool:
        if self.dates is None:
            return True
        date = str(row.get("contest_date") or "")
        if not date:
            raise UserError(f"{where} has no `contest_date`", hint=f"`{self.name}` is a window of dates")
        return self.dates[0] <= date[:10] <= self.dates[1]

    def _problem(self, item: Item, number: int) -> Problem:
        if not all(text.strip() for text in item.values.values()):
            raise RowError("has an empty question")
        return Problem(
            id=item.key or str(number),
            source=self.name,
            kind=self.kind,
            messages=(Message("user", render_prompt(self.prompt, item.values)),),
            verifier=self.verifier,
            answer=item.answer,
            metadata={"group": item.group or item.key or str(number)},
        )


def render_prompt(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with its placeholders filled in; what stands in a value is never read as a placeholder."""

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise RowError(f"has no text for `{{{match[1]}}}` of the prompt")
        return values[match[1]]

    return PLACEHOLDER.sub(fill, prompt)
