"""Format, repetition, language, composite and reward-model verifiers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.errors import UserError
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import Verifier, get_verifier
from openqwq.verifiers.repetition import repeated_share

PROBLEM = Problem(id="p", source="s", kind="k", messages=(Message("user", "q"),), verifier="format", answer="7")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("thinking</think>\n\nanswer", ""), ("<think>thinking</think>answer", ""), ("\n<think>a</think>b", ""),
        ("no tag", "thinking not closed"), ("a</think> \n", "empty answer"), ("", "thinking not closed"),
        ("a</think>b</think>c", "more than one thinking block"), ("a</think>b<think>", "more than one thinking block"),
        ("x<think>a</think>b", "text before the thinking"),
        ("<think>a<think>b</think>c", "more than one thinking block"),
    ],
)  # fmt: skip
def test_format_asks_for_one_closed_block_and_an_answer(text, reason):
    verdict = get_verifier("format")(PROBLEM, text)
    assert (verdict.status, verdict.reason) == ("wrong" if reason else "correct", reason)


def test_format_can_ask_for_thinking():
    assert get_verifier("format", require_thinking=True)(PROBLEM, "</think>b").reason == "empty thinking"


def test_repeated_share_by_hand():
    assert repeated_share(list("abcabcabc"), 3) == pytest.approx(4 / 7)
    assert repeated_share(["a"], 3) == 0


def test_repetition_finds_loops_and_spares_prose():
    verifier = get_verifier("repetition")
    loop = "Wait, let me check that again. " * 30
    prose = " ".join(f"step {i} gives {i * i} apples" for i in range(60))
    assert verifier(PROBLEM, loop).status == "wrong"
    assert verifier(PROBLEM, prose).status == "correct"
    assert verifier(PROBLEM, "no no no no no no no no no no").status == "correct"


@pytest.mark.parametrize(
    ("script", "text", "status"),
    [
        ("latin", "The answer is seven.", "correct"), ("latin", "因此 the answer 是", "wrong"),
        ("latin", "`переменная` and ```\nкод\n``` here, $π$", "correct"), ("latin", "42 + 1 = 43", "correct"),
        ("han", "答案是七", "correct"), ("han", "The answer", "wrong"), ("japanese", "答えは七です", "correct"),
        ("cyrillic", "Ответ семь, или seven", "wrong"), ("latin", "naïve café über", "correct"),
    ],
)  # fmt: skip
def test_language_is_the_share_of_the_scripts_letters(script, text, status):
    assert get_verifier("language", script=script)(PROBLEM, text).status == status


def test_language_can_look_at_the_answer_alone():
    verifier = get_verifier("language", part="answer")
    assert verifier(PROBLEM, "因此</think>seven").status == "correct"
    assert verifier(PROBLEM, "因此 seven").status == "wrong"


def test_language_refuses_what_scripts_cannot_tell():
    with pytest.raises(UserError, match="unknown script `german`"):
        get_verifier("language", script="german")


class Fixed(Verifier):
    name = "fixed"

    def __init__(self, verdict):
        super().__init__()
        self.verdict = verdict

    def __call__(self, problem, completion):
        return self.verdict


RIGHT, WRONG, UNKNOWN = Verdict.correct(), Verdict.wrong("bad", score=0.2), Verdict.unjudged("lost")


@pytest.mark.parametrize(
    ("a", "b", "gate", "status", "score"),
    [
        (RIGHT, RIGHT, RIGHT, "correct", 1.0), (RIGHT, WRONG, RIGHT, "wrong", (3 + 0.2) / 4),
        (RIGHT, RIGHT, WRONG, "wrong", 0.0), (UNKNOWN, RIGHT, RIGHT, "unjudged", 0.0),
        (UNKNOWN, RIGHT, WRONG, "wrong", 0.0), (RIGHT, RIGHT, UNKNOWN, "unjudged", 0.0),
    ],
)  # fmt: skip
def test_composite_weighs_parts_behind_gates(a, b, gate, status, score):
    parts = {"a": Fixed(a), "b": Fixed(b), "g": Fixed(gate)}
    verdict = get_verifier("composite", weights={"a": 3, "b": 1}, gates=["g"], parts=parts)(PROBLEM, "x")
    assert (verdict.status, verdict.score) == (status, pytest.approx(score))
    assert verdict.details["parts"]["b"]["status"] == b.status


def test_composite_makes_parts_by_name():
    verifier = get_verifier("composite", weights={"math": 1}, gates=["format"])
    assert verifier(PROBLEM, r"a</think>\boxed{7}").status == "correct"
    assert verifier(PROBLEM, r"a</think>b</think>\boxed{7}").score == 0
    with pytest.raises(UserError, match="unknown verifier: `maths`"):
        get_verifier("composite", weights={"maths": 1})
    with pytest.raises(UserError, match="weight above 0"):
        get_verifier("composite", weights={"math": 0})


def test_reward_model_maps_scores_to_the_unit_interval():
    verifier = get_verifier("reward_model", scorer=lambda pairs: [float(text) for _, text in pairs])
    verdicts = verifier.verify_many([(PROBLEM, t) for t in ("0", "2", "-1000", "nan")])
    assert [v.status for v in verdicts] == ["correct", "correct", "wrong", "unjudged"]
    assert verdicts[1].score == pytest.approx(1 / (1 + math.exp(-2)))
    assert 0 <= verdicts[2].score < 1e-20
    assert verifier.verify_many([]) == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_nothing_raises_on_arbitrary_text(text):
    for name in ("format", "repetition", "language"):
        assert get_verifier(name)(PROBLEM, text).status in ("correct", "wrong")


def test_language_can_ask_for_a_share_of_the_words():
    text = "Because это so, the answer is 因此 nine `код` $ф$."  # 8 words of prose, two of them foreign
    verdict = get_verifier("language", min_share=0.5)(PROBLEM, text)
    assert (verdict.status, verdict.details["word_share"]) == ("correct", pytest.approx(6 / 8))
    assert get_verifier("language", min_share=0.5, min_word_share=0.8)(PROBLEM, text).status == "wrong"
    assert get_verifier("language", min_word_share=1.0)(PROBLEM, "1 + 1").status == "correct"
