"""`openqwq verify --admit FILE`: which problems of a file may be trained on, by source and reason.

Public: admit_file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.data.curation.admission import Candidate, Decision, admit
from openqwq.log import write_text_atomic
from openqwq.rows import RowError, is_whole_problem, kind_of, text_of, whole_problem
from openqwq.verifiers import get_verifier

from ._rows import read_rows, row_problem

PROBLEMS_PER_BATCH = 64


def admit_file(file: Path, output: Path | None) -> dict[str, Any]:
    """What was admitted and why not, by source; with `output`, one line a problem is written there."""
    rejects: list[dict[str, Any]] = []
    candidates = list(read_rows(file, _read_candidate, rejects))
    verifiers = {name: get_verifier(name) for name in sorted({c.problem.verifier for c in candidates})}
    decisions: list[Decision] = []
    for first in range(0, len(candidates), PROBLEMS_PER_BATCH):
        decisions += admit(candidates[first : first + PROBLEMS_PER_BATCH], verifiers)
    if output:
        write_text_atomic(output, "".join(json.dumps(_row(decision)) + "\n" for decision in decisions))
    return _summarise(decisions) | {"rejects": rejects}


def _row(decision: Decision) -> dict[str, Any]:
    problem = decision.problem
    return {
        "id": problem.id,
        "source": problem.source,
        "admitted": decision.admitted,
        "reason": decision.reason,
        "detail": decision.detail,
    }


def _summarise(decisions: list[Decision]) -> dict[str, Any]:
    sources: dict[str, Counter[str]] = {}
    for decision in decisions:
        sources.setdefault(decision.problem.source, Counter())[decision.reason] += 1
    return {
        "problems": len(decisions),
        "admitted": sum(decision.admitted for decision in decisions),
        "sources": {name: dict(reasons.most_common()) for name, reasons in sorted(sources.items())},
    }


def _read_candidate(number: int, line: bytes, row: dict[str, Any]) -> Candidate:
    reference = row.pop("reference", None)
    if reference is not None and not isinstance(reference, str):
        raise RowError(f"`reference` is {kind_of(reference)}, not a text")
    if is_whole_problem(row):
        return Candidate(whole_problem(row), reference)
    verifier = "" if isinstance(row.get("problem"), Mapping) else text_of(row, "verifier")
    return Candidate(row_problem(row, number, verifier), reference)


def print_admission(summary: dict[str, Any]) -> None:
    """A table for people: each source, its share, and why the others were refused."""
    print(f"{summary['admitted']} of {summary['problems']} problems admitted")
    for source, reasons in summary["sources"].items():
        total, good = sum(reasons.values()), reasons.get("admitted", 0)
        print(f"  {source or '(no source)'}: {good} of {total} ({good / total:.1%})")
        for reason, count in reasons.items():
            if reason != "admitted":
                print(f"    {count:>6}  {reason}")
    for reject in summary["rejects"]:
        print(f"  line {reject['line']} could not be read: {reject['why']}")
