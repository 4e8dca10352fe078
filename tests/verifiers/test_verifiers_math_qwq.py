"""`protocol="qwq"`: the official evaluation's judgements; expected values are what its own code says."""

import json
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.math.qwq import extract, normalise

QWQ = get_verifier("math", protocol="qwq", num_workers=1)


def make_problem(answer):
    return Problem(id="p", source="s", kind="math", messages=(Message("user", "q"),), verifier="math", answer=answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{1} so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (r"\boxed 7$ is it", "7"), (r"\boxed{12", "12"),
        ("Thus the answer is 5.", "5"), ("my final answer is: 5", ": 5"[1:]), ("1,204 of them", "1204"),
        ("the final answer is $x^2$. I hope it is right", "x^2"), ("none", ""), (r"ends in \boxed", ""),
        ("a -3.5 b", "-3.5"), (r"\boxed{a\n b}".replace(r"\n", "\n"), "ab"),
    ],
)  # fmt: skip
def test_answer_is_found_as_the_official_code_finds_it(text, found):
    assert extract(text) == found


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        (r"\dfrac12", r"\frac{1}{2}"), ("3/4", r"\frac{3}{4}"), ("a/b", "/b"), ("p/q", "p/q"), (r"\sqrt2", r"\sqrt{2}"),
        ("007", "7"),
        (r"5\text{ cm}", "5"), ("12 minutes", "12"), (r"\text{east}", ""), ("x=5", "5"), ("t = 5", "5"),
        ("1.500", "1.500"), ("204.0", "204"), (".5", "0.5"), (r"50\%", "50"), ("one hundred and four", "104"),
        ("one million two thousand", "1003002"), ("three point one four", "3.14"), ("two hundred apples", "200"),
        (r"\{1,2\}", "{1,2}"), ("5j", "5i"), (r"(-\infty,\infty)", r"\mathbb{R}"), ("infinity", r"\infty"),
        (r"90^\circ", "90"), ("point", "0"), ("thousand million", "thousmillion"), ("", ""),
    ],
)  # fmt: skip
def test_answers_are_spelt_as_the_official_code_spells_them(text, spelling):
    assert normalise(text) == spelling


@pytest.mark.parametrize(
    ("gold", "text", "status"),
    [
        ("204", "x\n</think>\n\nIt is \\boxed{204}.", "correct"), ("204", "no end of thinking, 204", "correct"),
        ("204", "\\boxed{3}\n</think>\n\n\\boxed{204}", "correct"), ("204", "\\boxed{204}\n</think>\n\nNo.", "wrong"),
        ("204", "\\boxed{2.04}", "correct"), ("204", "\\boxed{20400}", "correct"),
        ("204", "\\boxed{204.01}", "correct"),
        ("204", "\\boxed{204.03}", "wrong"), ("204", "\\boxed{205}", "wrong"), ("025", "\\boxed{25}", "correct"),
        ("204", "\\boxed{\\frac{408}{2}}", "correct"), ("204", "\\boxed{200+4}", "correct"),
        ("204", "\\boxed{2^7+76}", "wrong"), ("204", "\\boxed{\\textbf{204}}", "wrong"), ("204", "", "wrong"),
        (r"\frac{1}{8}", r"\boxed{0\frac{1}{8}}", "wrong"), ("(6,31,-1)", r"\boxed{(6,31,-1).0}", "correct"),
        ("(1,2)", r"\boxed{[1,2)}", "correct"), (r"\sqrt{2}", r"\boxed{1.41421}", "correct"), 
        ("y=2x+1", r"\boxed{2x+1=y}", "wrong"), ("y=2x+1", r"\boxed{y=1+2x}", "correct"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}", "correct"),
        ("A", "the choice is (A)", "wrong"), ("A", r"\boxed{(A)}", "correct"), 
        ("ABD", r"\boxed{A, B and D}", "correct"),
        ("204", "\\boxed{__import__('os').getpid()}", "wrong"), ("204", "\\boxed{" + "2" * 9000 + "}", "wrong"),
        (None, "\\boxed{1}", "unjudged"),
    ],
)  # fmt: skip
def test_judgements_are_the_official_ones(gold, text, status):
    assert QWQ(make_problem(gold), text).status == status


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_judgements_of_many_outputs_are_those_of_the_official_code(every):
    """Gold, output, and what QwenLM/QwQ eval/eval/math_opensource.py (620a5ea, its required versions) said of them."""
    lines = Path(__file__).with_name("qwq_official.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][::every]
    assert len(rows) > 500 / every
    verdicts = QWQ.verify_many([(make_problem(gold), text) for gold, text, _ in rows])
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.score != row[2]]
    assert wrong == []


def test_hanging_answer_ends_at_the_deadline_and_is_wrong():
    quick = get_verifier("math", protocol="qwq", num_workers=1, deadline_s=1.0)
    assert quick(make_problem(r"\sqrt{2}"), r"\boxed{9^{9^{9^{9^9}}}}").reason in ("deadline", "wrong answer", "memory")


def test_unknown_protocol_is_a_user_error():
    with pytest.raises(UserError, match="protocol"):
        get_verifier("math", protocol="qwen")
