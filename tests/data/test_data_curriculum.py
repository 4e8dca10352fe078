import pytest

from openqwq.data.curation.decontaminate import NgramIndex, words_of
from openqwq.data.curriculum import DifficultyPool, draw_pool
from openqwq.errors import UserError
from openqwq.types import Message, Problem


def problem(number):
    messages = (Message("user", f"problem {number}"),)
    return Problem(id=f"p/{number}", source="s", kind="math", messages=messages, verifier="v")


class Endless:
    """Problems that repeat every `period`."""

    def __init__(self, period):
        self.period = period

    def batch(self, step, count, refill=0):
        return [problem((step * count + i) % self.period) for i in range(count)]


def pool(size=6, **options):
    settings = {"easy": 0.9, "hard": 0.0, "rest_steps": 3, "seed": 1, **options}
    return DifficultyPool([problem(i) for i in range(size)], **settings)


def test_a_pool_holds_distinct_problems_or_says_that_there_are_too_few():
    drawn = draw_pool(Endless(25), 20)
    assert len({p.prompt for p in drawn}) == 20
    assert [p.id for p in draw_pool(Endless(25), 20)] == [p.id for p in drawn]
    with pytest.raises(UserError, match="only 5 different problems"):
        draw_pool(Endless(5), 20)


def test_no_problem_comes_twice_in_a_step_and_refills_give_others():
    ours = pool()
    given = [p.id for refill in range(3) for p in ours.batch(0, 2, refill)]
    assert len(set(given)) == 6
    with pytest.raises(UserError, match="more problems than the pool"):
        ours.batch(0, 1, 3)
    assert len(ours.batch(1, 6)) == 6


def test_too_easy_and_impossible_ones_rest_and_come_back_and_rest_longer():
    ours = pool(size=3)
    ours.record(0, [(problem(0), 1.0), (problem(1), 0.0), (problem(2), 0.5)])
    assert ours.measures(1) == {"tried": 3, "resting_easy": 1, "resting_hard": 1, "pass_rate": 0.5}
    assert all(ours.batch(step, 1)[0].id == "p/2" for step in (1, 2, 3))
    assert {ours.batch(step, 1)[0].id for step in range(4, 40)} == {"p/0", "p/1", "p/2"}
    ours.record(40, [(problem(0), 1.0), (problem(1), 0.5)])
    assert all(p.id != "p/0" for step in (41, 43, 46) for p in ours.batch(step, 2))
    assert any(p.id == "p/0" for step in range(47, 60) for p in ours.batch(step, 2))


def test_where_too_few_are_awake_those_that_wake_first_are_taken():
    ours = pool(size=3)
    ours.record(0, [(problem(0), 1.0)])
    ours.record(2, [(problem(1), 1.0), (problem(2), 1.0)])
    assert ours.batch(3, 1)[0].id == "p/0"


def test_a_pools_state_goes_through_json_and_decides_what_follows():
    first, second = pool(), pool()
    first.record(0, [(problem(i), float(i % 2)) for i in range(4)])
    second.load_state(first.state())
    for step in range(1, 6):
        assert [p.id for p in first.batch(step, 3)] == [p.id for p in second.batch(step, 3)]


def test_words_are_compared_without_case_marks_and_compatibility_forms():
    assert words_of("Ｔhe ＣＡＴ, sat!") == ["the", "cat", "sat"]


def test_a_shared_run_of_words_is_found_and_named():
    index = NgramIndex(["What is the sum of all primes below ten?"], ngram=4)
    assert index.overlap("Tell me: the SUM of all -- now") == "the sum of all"
    assert index.overlap("the sum of many primes below") == ""


def test_a_text_shorter_than_the_run_counts_as_a_whole():
    index = NgramIndex(["Add 2 and 3."], ngram=13)
    assert index.overlap("add 2 and 3") and not index.overlap("add 2 and 3 and 4") and not index.overlap("")
