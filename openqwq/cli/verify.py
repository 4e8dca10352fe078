"""Judge a file of completions with a verifier.

FILE.jsonl has one JSON object a line: {"problem": {...}, "completion": "..."} with a whole problem, or
{"answer": ..., "completion": "..."} with what the verifier needs as `answer`; further columns reach a function of your
own, with FILE.py:FUNCTION as NAME. With --output the verdicts are appended as they come, in input order, and an
interrupted run resumes. Exit code 1: nothing was judged; with --strict also: some line was not.

A row has no prompt, so its completion is read as behind QwQ's, which ends in `<think>`: the answer is what follows
`</think>`. Completions of a model whose chat template opens no thinking need "thinking_opened": false in the row.

  openqwq verify math answers.jsonl --output verdicts.jsonl
  openqwq verify rewards.py:score answers.jsonl
  openqwq verify instructions answers.jsonl --option loose=true --json

With --admit the file holds problems, with a `reference` answer where the problem has none of its own. A problem is
admitted when its reference passes its verifier and empty, constant, shotgun and random answers fail.

  openqwq verify --admit problems.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import logger, read_jsonl, write_text_atomic
from openqwq.rows import RowError, kind_of, text_of
from openqwq.types import Problem, Verdict
from openqwq.verifiers import Verifier, get_verifier

from ._admit import admit_file, print_admission
from ._options import add_json_argument, print_json
from ._rows import read_rows, row_problem

ROWS_PER_BATCH = 256
"""Judged together, then written: enough to keep the workers busy, little to do again after a kill."""
SHOWN_REJECTS = 10
SECONDS_BETWEEN_LINES = 30
"""Of progress, where stderr is no terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """A readable line of the input; `key` tells whether an old verdict belongs to it."""

    line: int
    key: str
    problem: Problem
    completion: str


@dataclass(slots=True)
class Summary:
    """What the run found; `rejects` are lines that hold no judgeable row."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0
    reward_sum: float = 0.0
    part_scores: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        self.statuses[record["status"]] += 1
        if record["reason"]:
            self.reasons[f"{record['status']}: {record['reason']}"] += 1
        if record["status"] != "unjudged":
            self.score_sum += record["score"]
            self.reward_sum += record["score"] if record.get("reward") is None else record["reward"]
        for name, part in record["details"].get("parts", {}).items():
            if part["status"] != "unjudged":
                self.part_scores.setdefault(name, []).append(part["score"])

    @property
    def judged(self) -> int:
        """Rows with a verdict other than unjudged."""
        return self.statuses["correct"] + self.statuses["wrong"]

    def exit_code(self, *, strict: bool) -> int:
        """1 where nothing was judged, or strictly, where something was not."""
        missed = bool(self.rejects) or self.statuses["unjudged"] > 0
        return int(self.judged == 0 or (strict and missed))

    def to_dict(self, verifier: Verifier) -> dict[str, Any]:
        judged = self.judged
        return {
            "verifier": verifier.name,
            "version": verifier.version,
            "rows": self.statuses.total(),
            "correct": self.statuses["correct"],
            "wrong": self.statuses["wrong"],
            "unjudged": self.statuses["unjudged"],
            "mean_score": self.score_sum / judged if judged else None,
            "mean_reward": self.reward_sum / judged if judged else None,
            "parts": {name: sum(scores) / len(scores) for name, scores in self.part_scores.items()},
            "reasons": dict(self.reasons.most_common()),
            "skipped": self.skipped,
            "rejects": self.rejects,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verifier", metavar="NAME", nargs="?", help="math, code, ..., or a function: rewards.py:score")
    parser.add_argument("file", metavar="FILE.jsonl", type=Path, nargs="?", help="problems or answers with completions")
    parser.add_argument(
        "--admit", type=Path, metavar="PROBLEMS.jsonl", help="decide which of these problems may be trained on"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="OUT.jsonl",
        help="append one verdict a row (with --admit: write one decision a problem) to this file",
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="K=V", help="verifier option, e.g. loose=true; repeatable"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 if any line could not be read or judged")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.admit:
        return _admit(args)
    if not args.verifier or not args.file:
        raise UserError("`openqwq verify` needs NAME and FILE.jsonl, or --admit PROBLEMS.jsonl")
    options = _options(args.option)
    verifier = get_verifier(args.verifier, **options)
    summary = Summary()
    rows = list(read_rows(args.file, partial(_read_row, args.verifier, options), summary.rejects))
    done = _read_done(args.output, verifier, rows, summary) if args.output else set()
    _judge([row for row in rows if row.line not in done], verifier, args.output, summary)
    if args.json:
        print_json(summary.to_dict(verifier))
    else:
        _print_summary(summary.to_dict(verifier))
    if not summary.judged:
        logger.info("nothing was judged")
    return summary.exit_code(strict=args.strict)


def _admit(args: argparse.Namespace) -> int:
    if args.verifier or args.file or args.option:
        raise UserError("--admit takes one file and no NAME or --option: each problem names its verifier")
    summary = admit_file(args.admit, args.output)
    if args.json:
        print_json(summary)
    else:
        print_admission(summary)
    return int(not summary["problems"] or (args.strict and bool(summary["rejects"])))


def _options(pairs: list[str]) -> dict[str, Any]:
    """`k=v` pairs; a value that is JSON (a number, true, a list) is read as such, anything else is text."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"`--option {pair}` is not of the form NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _read_row(verifier: str, options: dict[str, Any], number: int, line: bytes, row: dict[str, Any]) -> Row:
    completion = text_of(row, "completion")
    problem = row_problem(row, number, verifier, options)
    if "thinking_opened" in row:
        if not isinstance(row["thinking_opened"], bool):
            raise RowError(f"`thinking_opened` is not true or false, but {kind_of(row['thinking_opened'])}")
        problem = replace(problem, thinking_opened=row["thinking_opened"])
    return Row(number, hashlib.sha256(line.strip()).hexdigest()[:16], problem, completion)


def _read_done(output: Path, verifier: Verifier, rows: list[Row], summary: Summary) -> set[int]:
    """Lines whose verdict is already in the output; a torn last line is cut off the file."""
    if not output.exists():
        return set()
    text = output.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text_atomic(output, whole)
    keys = {row.line: row.key for row in rows}
    done = set()
    for record in read_jsonl(output):
        expected = (verifier.name, verifier.version, keys.get(record.get("line", 0)))
        if (record.get("verifier"), record.get("version"), record.get("key")) != expected:
            raise UserError(
                f"{output} holds verdicts on another input or of another verifier (line {record.get('line')})",
                hint="give another --output, or remove the file",
            )
        done.add(record["line"])
        summary.add(record)
    summary.skipped = len(done)
    return done


def _judge(rows: list[Row], verifier: Verifier, output: Path | None, summary: Summary) -> None:
    logger.info(f"judging {len(rows)} rows with `{verifier.name}`" + (f", verdicts to {output}" if output else ""))
    start = said = time.monotonic()
    for first in range(0, len(rows), ROWS_PER_BATCH):
        batch = rows[first : first + ROWS_PER_BATCH]
        verdicts = verifier.verify_many([(row.problem, row.completion) for row in batch])
        records = [_record(row, verdict, verifier) for row, verdict in zip(batch, verdicts, strict=True)]
        if output:
            with open(output, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
        for record in records:
            summary.add(record)
        done, now = first + len(batch), time.monotonic()
        if sys.stderr.isatty() or done == len(rows) or now - said > SECONDS_BETWEEN_LINES:
            _show_progress(done, len(rows), now - start)
            said = now


def _record(row: Row, verdict: Verdict, verifier: Verifier) -> dict[str, Any]:
    return {
        "line": row.line,
        "key": row.key,
        "id": row.problem.id,
        "verifier": verifier.name,
        "version": verifier.version,
        "status": verdict.status,
        "score": verdict.score,
        **({} if verdict.reward is None else {"reward": verdict.reward}),
        "reason": verdict.reason,
        "extracted": verdict.extracted,
        "details": dict(verdict.details),
    }


def _show_progress(done: int, total: int, seconds: float) -> None:
    """One line on a terminal, rewritten; otherwise a log line."""
    pace = f", {done / seconds:.0f}/s, {(total - done) * seconds / done:.0f} s left" if seconds > 0 and done else ""
    text = f"judged {done}/{total}{pace}"
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="" if done < total else "\n", file=sys.stderr, flush=True)
    else:
        logger.info(text)


def _print_summary(summary: dict[str, Any]) -> None:
    mean = "-" if summary["mean_score"] is None else f"{summary['mean_score']:.4f}"
    print(f"{summary['verifier']} (version {summary['version']}): {summary['rows']} rows, mean score {mean}")
    if summary["mean_reward"] != summary["mean_score"]:
        print(f"  mean reward {summary['mean_reward']:.4f}")
    for status in ("correct", "wrong", "unjudged"):
        print(f"  {status:<9} {summary[status]}")
    for name, score in summary["parts"].items():
        print(f"  part {name}: mean score {score:.4f}")
    for reason, count in summary["reasons"].items():
        print(f"    {count:>6}  {reason}")
    if summary["skipped"]:
        print(f"  {summary['skipped']} of them were in the output already")
    if summary["rejects"]:
        print(f"  {len(summary['rejects'])} lines could not be read")
        for reject in summary["rejects"][:SHOWN_REJECTS]:
            print(f"    line {reject['line']}: {reject['why']}")
