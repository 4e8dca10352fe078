"""The cold start's fixed set of reasoning chains: made by teachers, filtered by our own verifiers.

A chain is kept only if its answer is right and its thinking neither loops, nor mixes languages, nor
contradicts or guesses the answer (the filters of the Qwen3 report, arXiv:2505.09388, section 4.1).
The manifest counts the kept ones by category and the dropped ones by reason.

Public: `Chain`, `Attempt`, `Teacher`, `Manifest`, `build_chains`, `write_chains`, `read_chains`, `ChainFilter`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from openqwq.errors import UserError
from openqwq.log import logger, write_text_atomic
from openqwq.rows import RowError, parse_row
from openqwq.types import Problem, Verdict
from openqwq.verifiers import Verifier, get_verifier

from ..keys import item_key
from ..sources.build import ProblemSource
from .rows import EXAMPLE, read_chain_row
from .tiny_teachers import brief_thinking, teach


@dataclass(frozen=True)
class Attempt:
    """What a teacher gave for a problem; `fault` says why it is no chain at all, e.g. "unfinished"."""

    thinking: str
    answer: str
    fault: str = ""


Teacher = Callable[[Problem, Random], Iterable[Attempt]]
"""A problem and a random generator to attempts; the first that passes is kept, and later ones are not asked for."""


@dataclass(frozen=True)
class Chain:
    """One demonstration: the problem, the thinking, the answer."""

    problem: Problem
    thinking: str
    answer: str

    @property
    def completion(self) -> str:
        """What follows a prompt that ends in an open thinking tag."""
        return f"{self.thinking}\n</think>\n\n{self.answer}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"problem": self.problem.to_dict(), "thinking": self.thinking, "answer": self.answer}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Chain:
        """Inverse of `to_dict`."""
        return cls(Problem.from_dict(row["problem"]), row["thinking"], row["answer"])


@dataclass
class Manifest:
    """How many chains were kept by category, and how many attempts were dropped by reason."""

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the number of chains as `total`."""
        return {"kept": dict(self.kept), "dropped": dict(self.dropped), "total": sum(self.kept.values())}


def write_chains(file: Path, chains: Iterable[Chain], manifest: Manifest) -> None:
    """JSON lines of the chains, with the manifest in a file beside them."""
    write_text_atomic(file.with_suffix(".manifest.json"), json.dumps(manifest.to_dict(), indent=2) + "\n")
    write_text_atomic(file, "".join(json.dumps(chain.to_dict(), ensure_ascii=False) + "\n" for chain in chains))


def read_chains(file: Path) -> list[Chain]:
    """The chains of a JSON-lines file, in any form of `rows.py`. Raises UserError for an unreadable file or line."""
    try:
        lines = file.read_bytes().splitlines()  # texts hold further kinds of line ends, bytes do not
    except OSError as error:
        raise UserError(f"cannot read the chains in {file}: {error.strerror}") from error
    chains = []
    for number, line in enumerate(lines, 1):
        try:
            chains.append(Chain(*read_chain_row(parse_row(line), number)))
        except RowError as error:
            raise UserError(error.why_no(f"{file}:{number}", "chain"), hint=f"a row looks like {EXAMPLE}") from error
    if without := sum(not chain.thinking.strip() for chain in chains):
        logger.warning("%s: %d of %d chains have no thinking", file, without, len(chains))
    return chains


def programmatic_teacher(problem: Problem, rng: Random, brief_share: float = 0.0) -> list[Attempt]:
    """The one chain of a tiny family's own teacher, brief with this probability where the family has a brief form."""
    thinking, answer = teach(problem, rng)
    is_brief = brief_share > 0 and rng.random() < brief_share
    return [Attempt(brief_thinking(problem) or thinking if is_brief else thinking, answer)]


def build_chains(
    sources: Mapping[str, ProblemSource],
    counts: Mapping[str, int],
    *,
    seed: int,
    exclude: frozenset[str] = frozenset(),
    teacher: Teacher = programmatic_teacher,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
) -> tuple[list[Chain], Manifest]:
    """`counts[name]` chains of each source, all of different problems, and the manifest.

    options: verifier options by source name.
    workers: problems that the teacher is asked about at one time; the chains do not depend on it.
    Raises UserError when a teacher fails so often that the set cannot be filled.
    """
    chains: list[Chain] = []
    manifest = Manifest()
    with ThreadPoolExecutor(workers, thread_name_prefix="openqwq-teacher") as pool:
        for name, wanted in counts.items():
            judge = ChainFilter((options or {}).get(name, {}))
            chains += _one_category(sources[name], wanted, seed, exclude, teacher, judge, pool, manifest)
    Random(seed).shuffle(chains)
    return chains, manifest


def _one_category(
    source: ProblemSource,
    wanted: int,
    seed: int,
    exclude: frozenset[str],
    teacher: Teacher,
    judge: ChainFilter,
    pool: ThreadPoolExecutor,
    manifest: Manifest,
) -> list[Chain]:
    kept: list[Chain] = []
    dropped: Counter[str] = Counter()
    candidates = _candidates(source, 20 * wanted + 100, seed, exclude)
    while len(kept) < wanted:
        wave = list(islice(candidates, wanted - len(kept)))
        if not wave:
            raise UserError(
                f"only {len(kept)} of {wanted} chains of `{source.name}` could be built",
                hint=f"dropped: {dict(dropped) or 'none'}; widen the source, or use a better teacher",
            )
        kept += _teach_wave(wave, teacher, judge, pool, dropped)
    manifest.kept[source.name] += wanted
    manifest.dropped.update(dropped)
    return kept


def _candidates(
    source: ProblemSource, limit: int, seed: int, exclude: frozenset[str]
) -> Iterator[tuple[Problem, Random]]:
    """Different problems of the source, each with the generator for its teacher."""
    seen = set(exclude)
    for index in range(limit):
        key = item_key("chains", seed, source.name, index)
        problem = source.problem("chains", key)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem, Random(key)


def _teach_wave(
    wave: Sequence[tuple[Problem, Random]],
    teacher: Teacher,
    judge: ChainFilter,
    pool: ThreadPoolExecutor,
    dropped: Counter[str],
) -> list[Chain]:
    """The first good chain of each problem that has one, in order; a round of attempts is judged in one batch."""
    good: dict[int, Chain] = {}
    open_attempts = {i: iter(teacher(problem, rng)) for i, (problem, rng) in enumerate(wave)}
    while open_attempts:
        given = pool.map(lambda attempts: next(attempts, None), open_attempts.values())
        attempts = {i: attempt for i, attempt in zip(open_attempts, given, strict=True) if attempt is not None}
        chains = {i: Chain(wave[i][0], attempt.thinking, attempt.answer) for i, attempt in attempts.items()}
        whole = [i for i, attempt in attempts.items() if not attempt.fault]
        judged = dict(zip(whole, judge([chains[i] for i in whole]), strict=True))
        reasons = {i: attempt.fault or judged[i] for i, attempt in attempts.items()}
        dropped.update(reason for reason in reasons.values() if reason)
        good |= {i: chains[i] for i, reason in reasons.items() if not reason}
        open_attempts = {i: open_attempts[i] for i, reason in reasons.items() if reason}
    return [good[i] for i in sorted(good)]


GUESSING = re.compile(r"\b(i guess|just guess|let me guess|can't tell|probably just|not sure but)\b", re.IGNORECASE)
FORMAT_TOKENS = ("<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
CONCLUSION_CHARACTERS = 300
"""The end of the thinking, where what it arrives at must stand; a tiny family's chain is shorter as a whole."""


class ChainFilter:
    """Says of each chain why it is dropped; empty when it is kept.

    options: of the verifiers that judge the answers.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = options
        self._verifiers: dict[str, Verifier] = {}
        self._repetition = get_verifier("repetition")
        self._language = get_verifier("language")

    def __call__(self, chains: Sequence[Chain]) -> list[str]:
        reasons = {i: self._style_fault(chain) for i, chain in enumerate(chains)}
        for verifier, indices in self._by_verifier(chains, [i for i, reason in reasons.items() if not reason]):
            verdicts = verifier.verify_many([(chains[i].problem, chains[i].completion) for i in indices])
            reasons |= {i: _answer_fault(chains[i], verdict) for i, verdict in zip(indices, verdicts, strict=True)}
        return list(reasons.values())

    def _style_fault(self, chain: Chain) -> str:
        if not chain.thinking.strip():
            return "no thinking"
        if any(token in chain.thinking or token in chain.answer for token in FORMAT_TOKENS):
            return "format token in the text"
        if GUESSING.search(chain.thinking):
            return "guessing"
        if self._repetition(chain.problem, chain.completion).status == "wrong":
            return "repetitive"
        if self._language(chain.problem, chain.completion).status == "wrong":
            return "language-mixed"
        return ""

    def _by_verifier(self, chains: Sequence[Chain], indices: Iterable[int]) -> list[tuple[Verifier, list[int]]]:
        groups: dict[str, list[int]] = {}
        for i in indices:
            groups.setdefault(chains[i].problem.verifier, []).append(i)
        for name in groups.keys() - self._verifiers.keys():
            self._verifiers[name] = get_verifier(name, **self._options)
        return [(self._verifiers[name], members) for name, members in groups.items()]


def _answer_fault(chain: Chain, verdict: Verdict) -> str:
    if verdict.status != "correct":
        return "unjudged" if verdict.status == "unjudged" else "wrong answer"
    return "" if thinking_agrees(chain) else "thinking inconsistent with answer"


def thinking_agrees(chain: Chain) -> bool:
    """Whether a boxed whole number is among the numbers with which the thinking ends, where it ends with numbers."""
    boxed = re.findall(r"\\boxed\{(-?\d+)\}", chain.answer)
    numbers = re.findall(r"(?<!\d)-?\d+", chain.thinking[-CONCLUSION_CHARACTERS:])
    return not boxed or not numbers or boxed[-1] in numbers
