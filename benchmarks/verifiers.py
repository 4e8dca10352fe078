"""How right the verifiers are, and how fast: confusion tables over real data sets, maths verdicts a second.

    python benchmarks/verifiers.py --data FOLDER [--only math code instructions tool_call speed] [--sample N]

FOLDER holds qwq_eval/aime24.jsonl, math500/test.jsonl, gsm8k/test.jsonl, humaneval/HumanEval.jsonl.gz and
mbpp/sanitized-mbpp.json, bfcl_v3/, ifeval_official/; a table whose data is missing is left out, and said so. Every
row of a table counts answers of one make: gold ones must be correct, all others wrong. Exit code 1 when any is not.
Writes benchmarks/results/verifiers.json.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine

from openqwq.sandbox import Limits, default_sandbox
from openqwq.types import Message, Problem
from openqwq.verifiers import Verifier, get_verifier
from openqwq.verifiers.math.rules import same_answer

Case = tuple[str, bool, Problem, str]
"""How the answer was made, whether it is right, the problem, the completion."""


def main() -> int:
    """Print every table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["math", "code", "tool_call", "instructions", "speed"])
    parser.add_argument("--sample", type=int, default=0, help="problems of each data set; 0: all")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "verifiers.json")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for name in args.only:
        results |= TABLES[name](args.data, args.sample)
    args.output.write_text(json.dumps(describe_machine() | {"results": results}, indent=2) + "\n")
    print(f"written to {args.output}", file=sys.stderr)
    return int(any(row.get("misjudged") for table in results.values() for row in table.values()))


def make_problem(verifier: str, answer: Any) -> Problem:
    return Problem(id="p", source="s", kind="k", messages=(Message("user", "q"),), verifier=verifier, answer=answer)


def read_lines(file: Path, sample: int) -> list[Any]:
    """The rows of a file, a fixed sample of them, or none where it is not at hand."""
    if not file.exists():
        print(f"{file} is not at hand", file=sys.stderr)
        return []
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    text = content.decode("utf-8")
    rows = (
        json.loads(text) if file.suffix == ".json" and text.startswith("[") else [*map(json.loads, text.splitlines())]
    )
    return random.Random(0).sample(rows, sample) if 0 < sample < len(rows) else rows


def tabulate(title: str, verifier: Verifier, cases: list[Case]) -> dict[str, Any]:
    """The confusion table of some cases, printed and returned."""
    start = time.perf_counter()
    verdicts = verifier.verify_many([(problem, completion) for _, _, problem, completion in cases])
    seconds = time.perf_counter() - start
    table: dict[str, Any] = {}
    for (kind, right, problem, completion), verdict in zip(cases, verdicts, strict=True):
        row = table.setdefault(kind, {"right": right, **Counter(correct=0, wrong=0, unjudged=0), "misjudged": 0})
        row[verdict.status] += 1
        if verdict.status != ("correct" if right else "wrong"):
            row["misjudged"] += 1
            print(
                f"  misjudged ({kind}): {problem.answer!r:.80} {completion[-60:]!r} {verdict.reason}", file=sys.stderr
            )
    print(f"\n{title}: {len(cases)} answers in {seconds:.1f} s")
    print(f"  {'answers':<22}{'should be':<11}{'correct':>8}{'wrong':>8}{'unjudged':>10}")
    for kind, row in table.items():
        wanted = "correct" if row["right"] else "wrong"
        print(f"  {kind:<22}{wanted:<11}{row['correct']:>8}{row['wrong']:>8}{row['unjudged']:>10}")
    return {title: table} if table else {}


def spoil(gold: str, others: list[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Wrong answers made from a gold one."""
    other = rng.choice(others)
    if same_answer(gold, other) is False:
        yield "another problem's", other
    yield "a digit more", f"{gold}7"
    digits = [i for i, c in enumerate(gold) if c.isdigit()]
    if digits:
        i = rng.choice(digits)
        yield "a digit changed", f"{gold[:i]}{(int(gold[i]) + rng.randrange(1, 10)) % 10}{gold[i + 1 :]}"
    if gold.lstrip("-").isdigit() and int(gold):
        yield "sign changed", gold[1:] if gold.startswith("-") else f"-{gold}"
        yield "off by one", str(int(gold) + 1)
        yield "left to add", f"{int(gold) - 1}+1"
    yield "a list with the gold", f"{gold}, 77777"


def math_tables(data: Path, sample: int) -> dict[str, Any]:
    """Strict and official judgements on AIME24, MATH-500 and GSM8K."""
    sets = {
        "AIME24": [str(r["answer"]) for r in read_lines(data / "qwq_eval" / "aime24.jsonl", sample)],
        "MATH-500": [r["answer"] for r in read_lines(data / "math500" / "test.jsonl", sample)],
        "GSM8K": [r["answer"].split("####")[1].strip() for r in read_lines(data / "gsm8k" / "test.jsonl", sample)],
    }
    found: dict[str, Any] = {}
    for name, golds in sets.items():
        rng, cases = random.Random(1), []
        for gold in golds:
            problem = make_problem("math", gold)
            for kind, right, answer in [("gold", True, gold), *((k, False, a) for k, a in spoil(gold, golds, rng))]:
                cases.append((kind, right, problem, f"Hm.\n</think>\n\nIt is \\boxed{{{answer}}}."))
        if cases:
            found |= tabulate(f"{name}, strict", get_verifier("math"), cases)
            if name == "AIME24":  # the official evaluation computes sums that the answer leaves to the reader
                lenient = [(kind, right or kind == "left to add", *rest) for kind, right, *rest in cases]
                found |= tabulate(f"{name}, protocol qwq", get_verifier("math", protocol="qwq"), lenient)
    lines = read_lines(ROOT / "tests" / "verifiers" / "qwq_official.jsonl", sample)
    recorded: list[Case] = [
        ("official: correct" if right else "official: wrong", bool(right), make_problem("math", gold), text)
        for gold, text, right in lines
    ]
    return found | tabulate(
        "protocol qwq, the official code's judgements", get_verifier("math", protocol="qwq"), recorded
    )


def mutate(code: str) -> str:
    """The program with every returned value wrapped and every sum turned: never right."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            node.value = ast.Tuple([node.value, ast.Constant("changed")], ast.Load())
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            node.op = ast.Sub()
    return ast.unparse(ast.fix_missing_locations(tree))


def code_tables(data: Path, sample: int) -> dict[str, Any]:
    """Canonical and mutated programs of HumanEval and MBPP."""
    humaneval = read_lines(data / "humaneval" / "HumanEval.jsonl.gz", sample)
    mbpp = read_lines(data / "mbpp" / "sanitized-mbpp.json", sample)
    sets = {
        "HumanEval": [(row, row["prompt"] + row["canonical_solution"]) for row in humaneval],
        "MBPP": [(row, row["code"]) for row in mbpp],
    }
    found: dict[str, Any] = {}
    for name, rows in sets.items():
        cases = []
        for row, code in rows:
            problem = make_problem("code", row)
            cases.append(("canonical", True, problem, f"Hm.\n</think>\n\n```python\n{code}\n```"))
            cases.append(("mutated", False, problem, f"Hm.\n</think>\n\n```python\n{mutate(code)}\n```"))
            cases.append(("empty", False, problem, "Hm.\n</think>\n\n```python\n\n```"))
        if cases:
            found |= tabulate(name, get_verifier("code", wall_s=30.0), cases)
            found |= compare_mutants(name, rows)
    return found


SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def change_once(code: str, entry_point: str, rng: random.Random) -> str | None:
    """The program with one operator or whole number of a function's body changed; None where it has none.

    entry_point: the function to change, for tests that bring its helpers themselves; "" for any.
    """
    tree = ast.parse(code)
    bodies = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    bodies = [body for body in bodies if entry_point in ("", body.name)]
    places = [node for body in bodies for node in ast.walk(body) if _is_changeable(node)]
    if not places:
        return None
    node: Any = rng.choice(places)
    if isinstance(node, ast.Constant):
        node.value += 1
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    else:
        node.op = SWAPS[type(node.op)]()
    return ast.unparse(tree)


def _is_changeable(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    operator = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)
    return type(operator) in SWAPS and not isinstance(node, ast.AugAssign)


def compare_mutants(name: str, rows: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """One change a program: our verdict beside a plain run of program and tests in one interpreter.

    A mutant that both pass is equivalent, or the set's own tests do not look at what changed.
    """
    rng = random.Random(2)
    mutants = [(row, text) for row, code in rows if (text := change_once(code, row.get("entry_point", ""), rng))]
    pairs = [(make_problem("code", row), f"</think>\n```python\n{text}\n```") for row, text in mutants]
    ours = [verdict.status for verdict in get_verifier("code", wall_s=4.0).verify_many(pairs)]  # some loop for ever
    limits = Limits(wall_s=4, cpu_s=16)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda case: default_sandbox().run(plain_script(*case), limits=limits), mutants)
        plain = ["correct" if result.status == "ok" else "wrong" for result in results]
    for (row, _), mine, theirs in zip(mutants, ours, plain, strict=True):
        if mine != theirs:
            print(f"  one change ({row['task_id']}): {mine}, and {theirs} by plain execution", file=sys.stderr)
    survivors = [row["task_id"] for (row, _), mine in zip(mutants, ours, strict=True) if mine == "correct"]
    misjudged = sum(mine != theirs for mine, theirs in zip(ours, plain, strict=True))
    print(
        f"  one change a program: {ours.count('wrong')} of {len(mutants)} mutants fail, {len(survivors)} pass; ", end=""
    )
    print(f"plain execution says otherwise of {misjudged}")
    row = {"mutants": len(mutants), "wrong": ours.count("wrong"), "passing": survivors, "misjudged": misjudged}
    return {f"{name}, one change": {"mutants": row}}


def plain_script(row: dict[str, Any], program: str) -> str:
    """The program with its tests behind it, as their authors run them."""
    if "test_list" in row:
        return "\n".join([*row["test_imports"], program, *row["test_list"]])
    return f"{program}\n{row['test']}\ncheck({row['entry_point']})\n"


def tool_call_tables(data: Path, sample: int) -> dict[str, Any]:
    """The leaderboard's own answers, and those with an argument too many or none."""
    from openqwq.data.curation.admission import own_reference

    found: dict[str, Any] = {}
    for category in ("simple", "multiple", "parallel", "parallel_multiple"):
        answers = read_lines(data / "bfcl_v3" / "possible_answer" / f"BFCL_v3_{category}.json", sample)
        questions = {row["id"]: row for row in read_lines(data / "bfcl_v3" / f"BFCL_v3_{category}.json", 0)}
        cases = []
        for row in answers:
            answer = {"functions": questions[row["id"]]["function"], "calls": row["ground_truth"]}
            problem = make_problem("tool_call", answer)
            calls = own_reference(problem) or ""
            fits = fits_schema(answer)
            cases.append(("first listed" if fits else "misfit of the data's", fits, problem, f"</think>{calls}"))
            extra = calls.replace('"arguments": {', '"arguments": {"extra": 1, ', 1).replace(", }", "}")
            cases.append(("extra argument", False, problem, f"</think>{extra}"))
            cases.append(("no call", False, problem, "</think>I would call it."))
        if cases:
            found |= tabulate(f"BFCL {category}", get_verifier("tool_call"), cases)
    return found


def fits_schema(answer: dict[str, Any]) -> bool:
    """Whether the listed calls have names and arguments that the functions have: a few of the data's own do not."""
    known = {function["name"]: function["parameters"]["properties"] for function in answer["functions"]}
    return all(
        name in known and wanted.keys() <= known[name].keys()
        for call in answer["calls"]
        for name, wanted in call.items()
    )


def instruction_tables(data: Path, sample: int) -> dict[str, Any]:
    """Each of IFEval's prompts answered by nothing: all are readable, and nothing is paid."""
    rows = read_lines(data / "ifeval_official" / "input_data.jsonl", sample)
    verifier = get_verifier("instructions", protocol="ifeval")
    cases = []
    for row in rows:
        rules = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        answer = {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in rules]}
        cases.append(("empty", False, make_problem("instructions", answer), "Hm.\n</think>\n\n"))
    return tabulate("IFEval, protocol ifeval", verifier, cases) if cases else {}


def speed_tables(data: Path, sample: int) -> dict[str, Any]:
    """Maths verdicts a second with isolation, beside the plain library in this process."""
    from math_verify import parse, verify

    golds = [r["answer"] for r in read_lines(data / "math500" / "test.jsonl", sample)]
    if not golds:
        return {}
    pairs = [
        (make_problem("math", g), f"</think>\\boxed{{{o}}}") for g, o in zip(golds, golds[1:] + golds[:1], strict=True)
    ]
    verifier = get_verifier("math")
    verifier.verify_many(pairs[:32])  # starts the workers

    def plain() -> None:
        for (_, completion), gold in zip(pairs, golds, strict=True):
            verify(parse(f"\\boxed{{{gold}}}"), parse(completion.removeprefix("</think>")))

    rates = {
        "ours": len(pairs) / _seconds(lambda: verifier.verify_many(pairs)),
        "math-verify": len(pairs) / _seconds(plain),
    }
    print("\nMATH-500 against the next problem's answer, verdicts a second:")
    for name, rate in rates.items():
        print(f"  {name:<14}{rate:>8.0f}")
    return {"math verdicts a second": {name: {"rate": rate} for name, rate in rates.items()}}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


TABLES = {
    "math": math_tables,
    "code": code_tables,
    "tool_call": tool_call_tables,
    "instructions": instruction_tables,
    "speed": speed_tables,
}

if __name__ == "__main__":
    sys.exit(main())
