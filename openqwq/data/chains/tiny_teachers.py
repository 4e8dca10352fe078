"""Programmatic teachers: the reasoning chain of a tiny problem, for the cold start only.

`teach(problem)` gives (thinking, answer). Chains compose single facts such as `37+48=85`, which the
pretraining corpus holds one by one; it never holds the chains.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from openqwq.errors import UserError
from openqwq.types import Problem

from ..sources.instructions import Rule, write_text
from ..sources.python_functions import Task
from .facts import LEGS, plural_legs


def teach(problem: Problem, rng: Random) -> tuple[str, str]:
    """The thinking and the final answer. Raises UserError for a family that has no teacher."""
    name = teacher_name(problem)
    if name not in TEACHERS:
        raise UserError(
            f"source `{problem.source}` has no programmatic teacher",
            hint=f"teachers: {', '.join(sorted(TEACHERS))}; or give `chains_file`",
        )
    return TEACHERS[name](problem, rng)


def teacher_name(problem: Problem) -> str:
    """The reasoning-gym data set, or the verifier's name for the other families."""
    return problem.answer["dataset"] if problem.verifier == "reasoning_gym" else problem.verifier


def brief_thinking(problem: Problem) -> str:
    """A thinking that states the result without working it out; "" for families that have none."""
    match teacher_name(problem):
        case "code":
            return "one line"
        case "instructions":
            return "as asked"
        case "chain_sum" | "basic_arithmetic" | "products":
            expression = re.findall(r"\d+(?: [-+*] \d+)+", problem.answer["entry"]["question"])[-1]
            return f"{expression.replace(' ', '')}={problem.answer['entry']['answer']}"
        case "gcd":
            numbers = ",".join(str(number) for number in problem.answer["entry"]["metadata"]["numbers"])
            return f"gcd({numbers})={problem.answer['entry']['answer']}"
        case "simple_equations":
            return f"{problem.answer['entry']['metadata']['variable']}={problem.answer['entry']['answer']}"
        case "leg_counting":
            return f"{problem.answer['entry']['answer']} legs"
    return ""


def _boxed(value: object) -> str:
    return f"\\boxed{{{value}}}"


def _chain_sum(problem: Problem, rng: Random) -> tuple[str, str]:
    tokens = re.findall(r"\d+|[+-]", problem.answer["entry"]["question"].split(":")[1])
    total, lines = int(tokens[0]), []
    for operator, number in zip(tokens[1::2], tokens[2::2], strict=True):
        result = _apply(total, operator, int(number))
        lines.append(f"{total}{operator}{number}={result}")
        total = result
    return "\n".join(lines), _boxed(total)


def _basic_arithmetic(problem: Problem, rng: Random) -> tuple[str, str]:
    """Products first, then sums, each from the left."""
    expression = problem.answer["entry"]["metadata"]["expression"]
    terms = expression.split()
    if not re.fullmatch(r"\d+( [-+*] \d+)*", expression):
        raise UserError(
            f"the teacher of `basic_arithmetic` cannot work out `{expression}`",
            hint='set `operators = ["+", "-", "*"]` without parentheses and negation, or give `chains_file`',
        )
    lines = []
    for operators in ("*", "+-"):
        while place := next((i for i, term in enumerate(terms) if term in operators), 0):
            step = "".join(terms[place - 1 : place + 2])
            value = _apply(int(terms[place - 1]), terms[place], int(terms[place + 1]))
            lines.append(f"{step}={value}")
            terms[place - 1 : place + 2] = [str(value)]
    return "\n".join(lines), _boxed(terms[0])


def _apply(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def _products(problem: Problem, rng: Random) -> tuple[str, str]:
    numbers = [int(number) for number in re.findall(r"\d+", problem.answer["entry"]["question"])]
    total, lines = numbers[0], []
    for number in numbers[1:]:
        lines += _multiply(total, number)
        total *= number
    return "\n".join(lines), _boxed(total)


def _multiply(a: int, b: int) -> list[str]:
    tens, ones = b - b % 10, b % 10
    if not tens or not ones:
        return [f"{a}*{b}={a * b}"]
    return [f"{a}*{tens}={a * tens}", f"{a}*{ones}={a * ones}", f"{a * tens}+{a * ones}={a * b}"]


def _gcd(problem: Problem, rng: Random) -> tuple[str, str]:
    a, *others = problem.answer["entry"]["metadata"]["numbers"]
    lines = []
    for b in others:
        while b:
            lines.append(f"{a}%{b}={a % b}")
            a, b = b, a % b
    return "\n".join(lines), _boxed(a)


def _simple_equations(problem: Problem, rng: Random) -> tuple[str, str]:
    equation = problem.answer["entry"]["question"].split(":")[1]
    left, right = equation.split("=")
    total, coefficient, lines = int(right), 0, []
    for sign, term in re.findall(r"([+-]?)\s*([\w*]+)", left):
        factor = -1 if sign == "-" else 1
        if re.search("[a-z]", term):
            coefficient = factor * int(term.split("*")[0]) if "*" in term else factor
            continue
        moved = f"-{term}" if factor == 1 else f"+{term}"
        lines.append(f"{total}{moved}={total - factor * int(term)}")
        total -= factor * int(term)
    if coefficient != 1:
        lines.append(f"{total}/{coefficient}={total // coefficient}")
    return "\n".join(lines), _boxed(total // coefficient)


def _leg_counting(problem: Problem, rng: Random) -> tuple[str, str]:
    animals = problem.answer["entry"]["metadata"]["animals"]
    total, lines = 0, []
    for position, (animal, count) in enumerate(animals.items()):
        legs = count * LEGS[animal]
        lines.append(f"{plural_legs(animal)}: {count}*{LEGS[animal]}={legs}")
        if position:
            lines.append(f"{total}+{legs}={total + legs}")
        total += legs
    return "\n".join(lines), _boxed(total)


def _code(problem: Problem, rng: Random) -> tuple[str, str]:
    task = Task(**problem.metadata["task"])
    condition, expression, gather = task.parts()
    thinking = f"keep {condition or 'all'}\nchange {expression}\nreturn {gather.format(items='..')}"
    return thinking, f"```python\n{task.code()}\n```"


def _instructions(problem: Problem, rng: Random) -> tuple[str, str]:
    rules = [Rule(**rule) for rule in problem.metadata["rules"]]
    notes = "\n".join(rule.sentence.rstrip(".").lower() for rule in rules)
    return notes, write_text(problem.metadata["topic"], rules, rng)


TEACHERS: dict[str, Callable[[Problem, Random], tuple[str, str]]] = {
    "chain_sum": _chain_sum,
    "basic_arithmetic": _basic_arithmetic,
    "products": _products,
    "gcd": _gcd,
    "simple_equations": _simple_equations,
    "leg_counting": _leg_counting,
    "code": _code,
    "instructions": _instructions,
}
