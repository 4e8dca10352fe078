"""Code problems: the reference, the program and the words of a task agree, and the hidden tests tell tasks apart."""

from dataclasses import replace
from itertools import product
from random import Random

import pytest

from openqwq.config import SourceConfig
from openqwq.data import build_source
from openqwq.data.sources.python_functions import CHANGE, GATHER, KEEP, WORDINGS, Task, draw_task, draw_tests
from openqwq.verifiers import get_verifier

LISTS = ([], [0], [-3], [5, -2, 5, 8, 1, 0, -9, 12, 3], [-1, -1, -7], [6, 3, 9, -6])


@pytest.mark.parametrize("gather", GATHER)
def test_reference_equals_the_program(gather):
    for keep, change in product(KEEP, CHANGE):
        for k, m in ((2, 9), (3, 5)):
            task = Task(keep, change, gather, k, m)
            names: dict = {}
            exec(task.code(), names)
            for xs in LISTS:
                assert names["f"](list(xs)) == task.reference(list(xs)), (task, xs)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task("even", "double", "sum"), 2 * (8 + 0 + 12 - 2)),
        (Task("odd", "square", "largest"), 81),
        (Task("negative", "negate", "reversed"), [9, 2]),
        (Task("above", "subtract", "count", 4, 7), 4),
        (Task("below", "add", "smallest", 2, 6), -3),
        (Task("multiple", "times", "list", 4, 3), [24, 0, 36]),
        (Task("positive", "absolute", "sorted"), [1, 3, 5, 5, 8, 12]),
        (Task("above", "none", "largest", 12), 0),
    ],
)
def test_reference_by_hand(task, expected):
    assert task.reference([5, -2, 5, 8, 1, 0, -9, 12, 3]) == expected


def test_words_name_every_part():
    task = Task("above", "times", "sorted", 4, 7)
    assert task.words(WORDINGS[0]) == (
        "Write a Python function f(xs): take the numbers above 4 in xs, multiply them by 7, return the sorted list."
    )
    assert "xs, return how many" in Task("all", "none", "count").words(WORDINGS[0])


def neighbours(task):
    """Tasks that differ in one part, or by one in a number."""
    yield from (replace(task, keep=keep) for keep in KEEP)
    yield from (replace(task, change=change) for change in CHANGE)
    yield from (replace(task, gather=gather) for gather in GATHER)
    yield from (replace(task, keep_k=task.keep_k + d, change_k=task.change_k + e) for d, e in ((1, 0), (0, 1), (0, -1)))


def test_hidden_tests_tell_a_task_from_its_neighbours():
    """At least 98 of 100 programs that are wrong in one part fail; equal ones do not count."""
    rng = Random(0)
    lists = [[rng.randint(-30, 40) for _ in range(rng.randint(0, 9))] for _ in range(200)]
    caught = wrong = 0
    for seed in range(100):
        task = draw_task(Random(seed))
        tests = draw_tests(task, Random(seed), 8)
        assert len(tests) == 8 and tests[0]["args"] == [[]]
        for other in neighbours(task):
            if any(other.reference(xs) != task.reference(xs) for xs in lists):
                wrong += 1
                caught += any(other.reference(test["args"][0]) != test["expected"] for test in tests)
    assert wrong > 1500
    assert caught / wrong > 0.98


def test_right_programs_pass_in_the_sandbox_and_wrong_ones_fail():
    source, verifier = build_source("python", SourceConfig(type="python_functions")), get_verifier("code")
    problems = [source.problem("train", key) for key in range(12)]
    programs = [Task(**problem.metadata["task"]).code() for problem in problems]
    answers = [f"keep\n</think>\n\n```python\n{code}\n```" for code in programs]
    right = verifier.verify_many(list(zip(problems, answers, strict=True)))
    assert {verdict.status for verdict in right} == {"correct"}
    shifted = verifier.verify_many(list(zip(problems, answers[1:] + answers[:1], strict=True)))
    assert {verdict.status for verdict in shifted} == {"wrong"}
