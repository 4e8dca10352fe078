"""How right maths verdicts are: our strict reading and the math-verify library on the same answers.

    python benchmarks/math_verdicts.py --data FOLDER [--cases FILE.jsonl] [--sample N]

FILE.jsonl: rows {"id", "input": {"gold", "boxed answer" or "answer part"}, "expected"}. FOLDER holds
qwq_eval/aime24.jsonl, math500/test.jsonl and gsm8k/test.jsonl: each gold is written anew in ways that must be accepted
and changed in ways that must be rejected. The library runs with its defaults, on the answer alone. A false accept is a
wrong answer called correct, a false reject a right answer not called correct. Writes counts and the ids of misjudged
cases to benchmarks/results/math_verdicts.json; exit code 1 where the library is better on any side.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine
from math_verify import parse, verify

from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier

Pair = tuple[str, str, str, str, str]
"""Table, what was done to the gold, the gold, the answer part, what is expected."""


def main() -> int:
    """Print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--sample", type=int, default=0, help="golds of each data set; 0: all")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "math_verdicts.json")
    args = parser.parse_args()
    pairs = [*read_cases(args.cases), *perturbed(args.data, args.sample)]
    verdicts = {"ours": judge_ours(pairs), "math_verify": judge_library(pairs)}
    tables = {name: tabulate(pairs, statuses) for name, statuses in verdicts.items()}
    show(tables)
    given = f" --cases {args.cases.name}" if args.cases else ""
    command = f"python benchmarks/math_verdicts.py --data {args.data.name}{given} --sample {args.sample}"
    result = describe_machine() | {"command": command}
    result["versions"] |= {"math-verify": version("math-verify"), "sympy": version("sympy")}
    args.output.write_text(json.dumps(result | {"results": tables}, indent=1) + "\n")
    print(f"written to {args.output}", file=sys.stderr)
    ours, library = (sums(table) for table in tables.values())
    return int(any(mine > theirs for mine, theirs in zip(ours, library, strict=True)))


def read_cases(file: Path | None) -> Iterator[Pair]:
    """The pairs of a file of cases; the part of an id behind its last dash names a case."""
    for line in file.read_text(encoding="utf-8").splitlines() if file else []:
        row = json.loads(line)
        given = row["input"]
        part = given.get("answer part") or f"\\boxed{{{given['boxed answer']}}}"
        yield "cases", row["id"].rpartition("-")[2], given["gold"], part, row["expected"]


def perturbed(data: Path, sample: int) -> Iterator[Pair]:
    """Golds of the data sets, rewritten and changed."""
    files = {"AIME24": "qwq_eval/aime24.jsonl", "MATH-500": "math500/test.jsonl", "GSM8K": "gsm8k/test.jsonl"}
    for name, file in files.items():
        if not (data / file).exists():
            print(f"{data / file} is not at hand", file=sys.stderr)
            continue
        rows = [json.loads(line) for line in (data / file).read_text(encoding="utf-8").splitlines()]
        golds = [str(row["answer"]).rpartition("####")[2].strip() for row in rows]
        rng = random.Random(0)
        for gold in rng.sample(golds, sample) if 0 < sample < len(golds) else golds:
            for kind, answer in rewrite(gold):
                yield name, kind, gold, f"So it is {answer}.", "correct"
            for kind, answer in change(gold, rng):
                yield name, kind, gold, f"So it is \\boxed{{{answer}}}.", "wrong"


def rewrite(gold: str) -> Iterator[tuple[str, str]]:
    """The same value, boxed, in other spellings."""
    bare = not re.search(r"[,=]|\\(?:text|mbox|cup|in|pm|begin|\{)|_", gold)
    yield "as it is", f"\\boxed{{{gold}}}"
    yield "in an fbox", f"\\fbox{{${gold}$}}"
    yield "coloured", f"\\boxed{{\\color{{blue}}{{{gold}}}}}"
    yield "bold", f"\\boxed{{\\boldsymbol{{{gold}}}}}"
    yield "with spaces", f"\\boxed{{\\,{gold}\\;}}"
    yield "a box spoken of", f"\\boxed{{{gold}}}, put inside \\boxed{{}} as asked"
    yield "markdown", f"\\boxed{{**{gold}**}}"
    if bare and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", gold)):
        yield "named", f"\\boxed{{x = {gold}}}"
        yield "in brackets", f"\\boxed{{\\left({gold}\\right)}}" if "%" not in gold else f"\\boxed{{{gold}}}"
    spelt = gold.replace("\\pi", "π").replace("^\\circ", "°").replace("-", "−").replace("\\infty", "∞")
    spelt = re.sub(r"\\sqrt\{?(\d+)\}?", r"√\1", spelt.replace("\\cup", "∪"))
    if spelt != gold and "\\begin" not in gold:
        yield "unicode", f"\\boxed{{{spelt}}}"
    number = plain(gold)
    if number is not None:
        yield from rewrite_number(number)
    if re.fullmatch(r".*\\(?:text|mbox)\{[ A-Za-z]+\}(?:\^2)?|.*\^\\circ", gold) and re.match(r"[\d\\]*\d", gold):
        amount = re.sub(r"(?:[^A-Za-z0-9]*(?:text|mbox).*|\^.*circ)$", "", gold)
        yield "unit left out", f"\\boxed{{{amount}}}"


def rewrite_number(number: Fraction) -> Iterator[tuple[str, str]]:
    """Other spellings of a whole number or a fraction."""
    sign = "-" if number < 0 else ""
    whole = abs(number.numerator)
    if number.denominator == 1:
        yield "decimal", f"\\boxed{{{sign}{whole}.0}}"
        yield "a fraction", f"\\boxed{{{sign}\\dfrac{{{3 * whole}}}{{3}}}}"
        if whole > 999:
            yield "grouped", f"\\boxed{{{sign}{f'{whole:,}'.replace(',', '{,}')}}}"
            yield "grouped by blanks", f"\\boxed{{{sign}{f'{whole:,}'.replace(',', ' ')}}}"
    else:
        yield "a slash", f"\\boxed{{{sign}{whole}/{number.denominator}}}"
        if whole > number.denominator:
            rest = whole % number.denominator
            mixed = f"{sign}{whole // number.denominator} {rest}/{number.denominator}"
            yield "a mixed number", f"\\boxed{{{mixed}}}"


def change(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Other values that look like the gold."""
    digits = [i for i, c in enumerate(gold) if c.isdigit()]
    if digits:
        i = rng.choice(digits)
        yield "a digit changed", f"{gold[:i]}{(int(gold[i]) + rng.randrange(1, 10)) % 10}{gold[i + 1 :]}"
    yield "another value beside it", f"{gold}, 7919"
    number = plain(gold)
    if number is not None:
        yield from change_number(gold, number)
    if "^2" in gold or "^{2}" in gold:
        yield "exponent changed", gold.replace("^2", "^3").replace("^{2}", "^{3}")
    if pair := re.fullmatch(r"(\\left)?\(([^(),]+),([^(),]+)(\\right)?\)", gold):
        yield "swapped", f"({pair[3]},{pair[2]})" if pair[2].strip() != pair[3].strip() else f"({pair[2]},{pair[3]},0)"
        yield "a set", f"\\{{{pair[2]},{pair[3]}\\}}"
        yield "a bracket changed", f"[{pair[2]},{pair[3]})"
    for unit, other in (("cm", "m"), ("inches", "feet"), ("degrees", "radians"), ("cents", "dollars")):
        if unit in gold:
            yield "unit exchanged", gold.replace(unit, other)
    if gold.endswith("^\\circ"):
        yield "unit exchanged", gold.replace("^\\circ", "\\text{ radians}")


def change_number(gold: str, number: Fraction) -> Iterator[tuple[str, str]]:
    """Other numbers near a number, or with its digits."""
    if number:
        yield "sign changed", gold[1:] if gold.startswith("-") else f"-{gold}"
        yield "times ten", f"{gold} \\times 10"
        yield "a tiny bit more", f"{gold} + 10^{{-9}}"
        yield "per cent of it", f"{float(number) / 100}"
    if number.denominator == 1:
        yield "off by one", str(int(number) + 1)
        yield "in a base", f"{int(number)}_{{11}}"
        yield "left to add", f"{int(number) - 1}+1"
    elif abs(number.numerator) != 1 or number.denominator != 1:
        yield "upside down", f"\\frac{{{number.denominator}}}{{{number.numerator}}}"


def plain(gold: str) -> Fraction | None:
    """The value of a whole number, a decimal or a `\\frac` of whole numbers."""
    text = gold.replace(",", "") if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+", gold) else gold
    if re.fullmatch(r"-?\d+(?:\.\d+)?", text):
        return Fraction(text)
    match = re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", text)
    return Fraction(f"{match[1]}{match[2]}/{match[3]}") if match else None


def judge_ours(pairs: list[Pair]) -> list[str]:
    """Statuses by `math`, strict."""
    problems = [
        Problem(id="p", source="s", kind="math", messages=(Message("user", "q"),), verifier="math", answer=gold)
        for _, _, gold, _, _ in pairs
    ]
    texts = [f"Hm.\n</think>\n\n{part}" for _, _, _, part, _ in pairs]
    return [v.status for v in get_verifier("math").verify_many(list(zip(problems, texts, strict=True)))]


def judge_library(pairs: list[Pair]) -> list[str]:
    """Statuses by the library: the gold in a box, the answer part as it is."""
    statuses = []
    for _, _, gold, part, _ in pairs:
        try:
            same = verify(parse(f"\\boxed{{{gold}}}"), parse(part))
        except Exception as error:  # what the library raises on a text is its answer to it
            print(f"math_verify: {type(error).__name__} on {gold!r:.60}", file=sys.stderr)
            same = False
        statuses.append("correct" if same else "wrong")
    return statuses


def tabulate(pairs: list[Pair], statuses: list[str]) -> dict[str, Any]:
    """For each table: answers of both sorts, false accepts and rejects by kind."""
    tables: dict[str, Any] = {}
    for (table, kind, _, _, expected), status in zip(pairs, statuses, strict=True):
        row = tables.setdefault(table, {"right": 0, "wrong": 0, "false_rejects": {}, "false_accepts": {}})
        right = expected.startswith("correct")
        row["right" if right else "wrong"] += 1
        if status not in re.findall("correct|wrong|unjudged", expected):
            errors = row["false_rejects" if right else "false_accepts"]
            errors[kind] = errors.get(kind, 0) + 1
    return tables


def sums(tables: dict[str, Any]) -> tuple[int, int]:
    """False accepts and false rejects over all tables."""
    rows = tables.values()
    return (
        sum(sum(row["false_accepts"].values()) for row in rows),
        sum(sum(row["false_rejects"].values()) for row in rows),
    )


def show(tables: dict[str, dict[str, Any]]) -> None:
    """One line for each table and reader."""
    print(f"{'answers':<12}{'reader':<14}{'false accepts':>18}{'false rejects':>18}")
    for table in tables["ours"]:
        for reader, found in tables.items():
            row = found[table]
            accepts, rejects = sums({table: row})
            print(f"{table:<12}{reader:<14}{accepts:>10} of {row['wrong']:<5}{rejects:>9} of {row['right']:<5}")
    for reader, found in tables.items():
        print(f"{'all':<12}{reader:<14}{sums(found)[0]:>10}{sums(found)[1]:>18}")


if __name__ == "__main__":
    sys.exit(main())
