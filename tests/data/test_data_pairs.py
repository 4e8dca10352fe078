"""Preference pairs: the better text is spoilt in the way that is named, and only there."""

from collections import Counter

import pytest

from openqwq.config import SourceConfig
from openqwq.data import build_pairs, build_source, held_out, problem_texts
from openqwq.data.pairs import FLAWS
from openqwq.errors import UserError
from openqwq.verifiers import get_verifier

WORDS = build_source("words", SourceConfig(type="instructions"))


def test_the_better_text_obeys_and_the_worse_one_differs():
    verifier = get_verifier("instructions")
    pairs = build_pairs(WORDS, 1500, seed=0)
    for pair in pairs:
        assert pair.chosen != pair.rejected
        assert verifier(pair.problem, f"x\n</think>\n\n{pair.chosen}").status == "correct"
    counts = Counter(pair.flaw for pair in pairs)
    assert set(counts) == set(FLAWS) and min(counts.values()) > 250


def test_each_flaw_is_what_its_name_says():
    for pair in build_pairs(WORDS, 500, seed=1):
        good, bad = pair.chosen.split(" "), pair.rejected.split(" ")
        if pair.flaw == "scrambled":
            assert sorted(bad) == sorted(good)
        elif pair.flaw == "unfinished":
            assert bad == good[: len(bad)] and 0 < len(bad) < len(good)
        elif pair.flaw == "repetitive":
            assert len(bad) > len(good) and set(bad) == set(good)


def test_pairs_repeat_by_seed_and_positions_do_not_overlap():
    assert build_pairs(WORDS, 20, seed=0) == build_pairs(WORDS, 20, seed=0)
    assert build_pairs(WORDS, 10, seed=0, first=10) == build_pairs(WORDS, 20, seed=0)[10:]
    ids = {pair.problem.id for pair in build_pairs(WORDS, 20, seed=0)}
    assert not ids & {pair.problem.id for pair in build_pairs(WORDS, 20, seed=0, first=20)}
    assert not ids & {pair.problem.id for pair in build_pairs(WORDS, 20, seed=1)}


def test_no_pair_is_made_of_a_held_out_problem():
    narrow = build_source("words", SourceConfig(type="instructions", config={"min_rules": 1, "max_rules": 1}))
    unseen = problem_texts(held_out(narrow, 100))
    assert unseen & {pair.problem.prompt for pair in build_pairs(narrow, 100, seed=0)}
    assert not unseen & {pair.problem.prompt for pair in build_pairs(narrow, 100, seed=0, exclude=unseen)}


def test_a_source_without_topics_is_a_user_error():
    source = build_source("gcd", SourceConfig(type="reasoning_gym"))
    with pytest.raises(UserError, match="gives no preference pairs"):
        build_pairs(source, 1, seed=0)
