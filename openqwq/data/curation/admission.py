r"""Whether a problem may be trained on: its reference answer passes its own verifier, and cheap answers fail.

Public: `admit`, `own_reference`, `Candidate`, `Decision`. The cheap answers: empty ones, one constant for all problems,
a shotgun (many answers at once, the right one among them) and random ones of the reference's shape. They are written
as the verifier's kind asks for: in `\boxed{}`, as a program, as a tool call, as a proof, or as they are.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.types import Problem, Verdict
from openqwq.verifiers.base import Verifier, verify_all

NUM_RANDOM = 4
"""Random answers tried for each problem: enough to find a verifier that pays for shape alone."""

_PROGRAMS = {
    "constant": "def {name}(*args, **kwargs):\n    return 0",
    "shotgun": (
        "class Equal:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "def {name}(*args, **kwargs):\n    return Equal()"
    ),
    "random": "import random\ndef {name}(*args, **kwargs):\n    return random.randrange(10**{n}, 10**9)",
}
_OUTPUTS = {"constant": "0", "shotgun": "0 1 2 3 yes no YES NO Yes No -1"}
_PRINTING = {
    "python": "print('{text}')",
    "cpp": '#include <cstdio>\nint main() { puts("{text}"); }',
    "javascript": "console.log('{text}')",
    "java": 'class Main { public static void main(String[] a) { System.out.println("{text}"); } }',
    "rust": 'fn main() { println!("{text}"); }',
    "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println("{text}") }',
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A problem and its reference: a box's content, a program, calls, a proof or a text; None: the problem's own."""

    problem: Problem
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a problem is admitted; `reason` is short and the same for like cases, `detail` says the rest."""

    problem: Problem
    admitted: bool
    reason: str
    detail: str = ""


def admit(candidates: Sequence[Candidate], verifiers: Mapping[str, Verifier]) -> list[Decision]:
    """One decision for each candidate, in order; all their answers are judged in one batch."""
    answers = [dict(_answers(candidate)) for candidate in candidates]
    pairs = [(c.problem, text) for c, texts in zip(candidates, answers, strict=True) for text in texts.values()]
    verdicts = iter(verify_all(pairs, verifiers))
    return [
        _decide(candidate.problem, {name: next(verdicts) for name in texts})
        for candidate, texts in zip(candidates, answers, strict=True)
    ]


def _decide(problem: Problem, verdicts: Mapping[str, Verdict]) -> Decision:
    if "reference" not in verdicts:
        return Decision(problem, False, "no reference answer")
    reference = verdicts["reference"]
    if reference.status != "correct":
        how = "fails" if reference.status == "wrong" else "cannot be judged"
        return Decision(problem, False, f"the reference answer {how}", reference.reason)
    for name, verdict in verdicts.items():
        if name != "reference" and verdict.status != "wrong":
            kind = name.rstrip("0123456789")
            how = "passes" if verdict.status == "correct" else "cannot be judged"
            return Decision(problem, False, f"the {kind} answer {how}", verdict.reason)
    return Decision(problem, True, "admitted")


def _answers(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """Completions by name, the reference first; nothing where there is no reference."""
    problem = candidate.problem
    reference = candidate.reference if candidate.reference is not None else own_reference(problem)
    if reference is None:
        return
    rng = random.Random(int(hashlib.sha256(problem.id.encode("utf-8", "surrogatepass")).hexdigest()[:16], 16))
    makers = {"code": _code_answers, "tool_call": _call_answers}
    bodies = makers.get(problem.verifier, _text_answers)(problem, reference, rng)
    for name, body in (("reference", reference), ("empty", ""), *bodies):
        yield name, f"Let me think.\n</think>\n\n{_write(problem, body)}"


def own_reference(problem: Problem) -> str | None:
    """The reference that a problem of a known kind carries in its own `answer`."""
    answer = problem.answer
    if problem.verifier == "math" and isinstance(answer, str | int | float):
        return str(answer)
    if not isinstance(answer, dict):
        return None
    if problem.verifier == "reasoning_gym":
        return _gym_reference(answer.get("entry"))
    if problem.verifier == "code":
        solution = answer.get("code") or answer.get("canonical_solution")
        prompt = answer.get("prompt", "") if "canonical_solution" in answer else ""
        return f"{prompt}{solution}" if isinstance(solution, str) and isinstance(prompt, str) else None
    if problem.verifier == "tool_call" and isinstance(answer.get("calls"), list):
        return _call_texts([_first_answers(call) for call in answer["calls"]])
    return None


def _gym_reference(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return None
    metadata = entry.get("metadata") or {}
    found = entry.get("answer") or metadata.get("example_correct_answer") or metadata.get("possible_answer")
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _first_answers(call: Any) -> tuple[str, Any]:
    """A call made of the first acceptable value of each argument."""
    ((name, wanted),) = call.items()
    chosen = {p: next((a for a in acceptable if a != ""), None) for p, acceptable in wanted.items()}
    return name, {p: _first_value(value) for p, value in chosen.items() if value is not None}


def _first_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_first_value(item) for item in value]
    if isinstance(value, dict):
        return {k: next((a for a in v if a != ""), "") if isinstance(v, list) else v for k, v in value.items()}
    return value


def _call_texts(calls: Sequence[tuple[str, Any]]) -> str:
    texts = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts) or "No function helps."


def _write(problem: Problem, body: str) -> str:
    if problem.verifier in ("math", "reasoning_gym"):
        return f"\\boxed{{{body}}}"
    if problem.verifier in ("code", "proof"):
        return f"```{_language(problem) if problem.verifier == 'code' else ''}\n{body}\n```"
    return body


def _language(problem: Problem) -> str:
    named = problem.answer.get("language") if isinstance(problem.answer, dict) else None
    return named if isinstance(named, str) and named in _PRINTING else "python"


def _code_answers(problem: Problem, reference: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    del reference
    name = _entry_point(problem.answer)
    for kind in _PROGRAMS:
        for i in range(NUM_RANDOM if kind == "random" else 1):
            if name:
                text = _PROGRAMS[kind].replace("{name}", name).replace("{n}", str(rng.randrange(1, 8)))
            else:
                output = _OUTPUTS.get(kind) or str(rng.randrange(10 ** rng.randrange(1, 8), 10**9))
                text = _PRINTING[_language(problem)].replace("{text}", output)
            yield f"{kind}{i}", text


def _entry_point(answer: Any) -> str:
    """What the programs must define; empty for programs on stdin."""
    from openqwq.verifiers.code.tasks import TaskError, read_task

    try:
        return read_task(answer).entry_point
    except TaskError:
        return "f"


def _call_answers(problem: Problem, reference: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield "constant", _call_texts([("none", {})])
    yield "shotgun", f"{reference}\n{_call_texts([('none', {})])}"
    for i in range(NUM_RANDOM):
        yield f"random{i}", _call_texts([(_shuffle_characters("function", rng), {"value": rng.randrange(1000)})])


def _text_answers(problem: Problem, reference: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield "constant", next(text for text in ("0", "1") if text != reference.strip())
    yield "shotgun", f"{reference} or {_shuffle_characters(reference, rng)} or 0 or 1 or yes or no"
    for i in range(NUM_RANDOM):
        yield f"random{i}", _shuffle_characters(reference, rng)


def _shuffle_characters(text: str, rng: random.Random) -> str:
    """A text of the same shape: each digit and letter is drawn anew; never the text itself."""
    for _ in range(20):
        drawn = re.sub(r"[0-9]", lambda _: str(rng.randrange(10)), text)
        drawn = re.sub(r"(?<!\\)\b[a-z]+\b", lambda m: _draw_letters(m[0], rng), drawn)
        if drawn.strip() != text.strip() and _draw_key(drawn) != _draw_key(text):
            return drawn
    return f"{text[::-1]}7"


def _draw_letters(word: str, rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in word)


def _draw_key(text: str) -> tuple[str, ...]:
    """Numbers without leading zeros, sorted: `05` is no other answer than `5`, and often nor are `1, 2` and `2, 1`."""
    return tuple(sorted(part.lstrip("0") for part in re.findall(r"[0-9]+|[A-Za-z]+", text)))
