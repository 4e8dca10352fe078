"""Cold-start chains: teachers are right by the verifiers, bad chains are dropped by name, the manifest counts."""

import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from openqwq.config import SourceConfig
from openqwq.data import Attempt, Chain, build_chains, build_source, held_out, problem_texts, read_chains, write_chains
from openqwq.data.chains.build import ChainFilter, programmatic_teacher, thinking_agrees
from openqwq.data.chains.facts import LEGS
from openqwq.data.chains.tiny_teachers import teach
from openqwq.errors import UserError
from openqwq.types import Message, Problem

GYM = {
    "chain_sum": {"min_terms": 2, "max_terms": 6},
    "products": {"min_terms": 2, "max_terms": 3},
    "basic_arithmetic": {"operators": ["+", "-"], "allow_parentheses": False, "allow_negation": False},
    "gcd": {"min_numbers": 2, "max_numbers": 3},
    "simple_equations": {},
    "leg_counting": {"min_animals": 1, "max_animals": 5},
}
CHAIN_SUM = SourceConfig(type="reasoning_gym", config={"min_terms": 3, "max_terms": 3})


def sources():
    made = {name: build_source(name, SourceConfig(type="reasoning_gym", config=config)) for name, config in GYM.items()}
    made["words"] = build_source("words", SourceConfig(type="instructions"))
    return made


def chain_sum():
    return {"chain_sum": build_source("chain_sum", CHAIN_SUM)}


def test_every_teacher_is_right_by_its_own_verifier():
    counts = dict.fromkeys([*GYM, "words"], 200)
    chains, manifest = build_chains(sources(), counts, seed=0)
    assert manifest.to_dict() == {"kept": counts, "dropped": {}, "total": 1400}
    assert Counter(chain.problem.source for chain in chains) == counts
    assert len({chain.problem.prompt for chain in chains}) == 1400


def test_code_teacher_is_right_in_the_sandbox():
    source = build_source("python", SourceConfig(type="python_functions"))
    _, manifest = build_chains({"python": source}, {"python": 20}, seed=0)
    assert manifest.to_dict() == {"kept": {"python": 20}, "dropped": {}, "total": 20}


def test_thinking_holds_only_true_sums():
    chains, _ = build_chains(
        sources(), {"chain_sum": 100, "basic_arithmetic": 100, "products": 100, "gcd": 100}, seed=3
    )
    for line in "\n".join(chain.thinking for chain in chains).split("\n"):
        a, operator, b, result = re.fullmatch(r"(-?\d+)([-+*%])(\d+)=(-?\d+)", line).groups()
        a, b = int(a), int(b)
        assert int(result) == {"+": a + b, "-": a - b, "*": a * b, "%": a % b}[operator] if b else True, line


def test_products_come_before_sums():
    entry = {"question": "", "answer": "49", "metadata": {"expression": "6 + 7 + 4 * 9 * 1 - 0"}}
    answer = {"dataset": "basic_arithmetic", "entry": entry}
    problem = Problem(id="p", source="a", kind="math", messages=(), verifier="reasoning_gym", answer=answer)
    thinking, answer = teach(problem, Random(0))
    assert thinking.split("\n") == ["4*9=36", "36*1=36", "6+7=13", "13+36=49", "49-0=49"]
    assert answer == "\\boxed{49}"
    entry["metadata"]["expression"] = "( 6 + 7 ) * 4"
    with pytest.raises(UserError, match="cannot work out"):
        teach(problem, Random(0))


def test_brief_chains_state_the_result_of_the_same_problems():
    some = sources()
    some["python"] = build_source("python", SourceConfig(type="python_functions"))
    counts = dict.fromkeys([*GYM, "words"], 40) | {"python": 8}

    def built(share):
        teacher = partial(programmatic_teacher, brief_share=share)
        return build_chains(some, counts, seed=0, teacher=teacher)

    (whole, _), (mixed, _), (brief, manifest) = built(0.0), built(0.5), built(1.0)
    assert manifest.to_dict() == {"kept": counts, "dropped": {}, "total": 288}
    assert [c.problem for c in whole] == [c.problem for c in mixed] == [c.problem for c in brief]
    assert all("\n" not in chain.thinking for chain in brief)
    assert {c.thinking for c in mixed} <= {c.thinking for c in whole} | {c.thinking for c in brief}
    shortened = sum(m.thinking == b.thinking != w.thinking for w, m, b in zip(whole, mixed, brief, strict=True))
    longer = sum(b.thinking != w.thinking for w, b in zip(whole, brief, strict=True))
    assert 0.4 < shortened / longer < 0.6
    results = [c for c in brief if c.problem.verifier == "reasoning_gym"]
    assert all(c.problem.answer["entry"]["answer"] in c.thinking for c in results)


def test_leg_facts_are_the_library_s_own():
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    assert LEGS == ANIMALS


def test_the_same_seed_gives_the_same_set_without_held_out_texts():
    unseen = problem_texts(held_out(chain_sum()["chain_sum"], 300))
    first, _ = build_chains(chain_sum(), {"chain_sum": 200}, seed=1, exclude=unseen)
    again, _ = build_chains(chain_sum(), {"chain_sum": 200}, seed=1, exclude=unseen, workers=4)
    other, _ = build_chains(chain_sum(), {"chain_sum": 200}, seed=2, exclude=unseen)
    assert first == again != other
    assert not unseen & {chain.problem.prompt for chain in first}


def test_a_chain_survives_its_file_form(tmp_path):
    (made,), manifest = build_chains(chain_sum(), {"chain_sum": 1}, seed=0)
    chain = replace(made, thinking=f"{made.thinking}\u2028\x85\r\n\n+")
    write_chains(tmp_path / "a.jsonl", [chain], manifest)
    (again,) = read_chains(tmp_path / "a.jsonl")
    assert again.completion == chain.completion == f"{chain.thinking}\n</think>\n\n{chain.answer}"
    assert again.problem.prompt == chain.problem.prompt
    assert json.loads((tmp_path / "a.manifest.json").read_text()) == manifest.to_dict()


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"problem": ""}', b"\xff"])
def test_a_line_that_is_no_chain_is_named(tmp_path, line):
    file = tmp_path / "a.jsonl"
    chains, manifest = build_chains(chain_sum(), {"chain_sum": 1}, seed=0)
    write_chains(file, chains, manifest)
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2 is no chain"):
        read_chains(file)
    with pytest.raises(UserError, match="cannot read the chains"):
        read_chains(tmp_path / "absent.jsonl")


def spoil(attempt, how):
    lines = attempt.thinking.split("\n")
    return {
        "wrong answer": Attempt(attempt.thinking, "\\boxed{12345}"),
        "repetitive": Attempt("\n".join(lines * 40), attempt.answer),
        "guessing": Attempt(f"I guess this.\n{attempt.thinking}", attempt.answer),
        "language-mixed": Attempt(f"因此我们得到答案\n{attempt.thinking}", attempt.answer),
        "thinking inconsistent with answer": Attempt("12340+5=12345", attempt.answer),
        "no thinking": Attempt(" \n", attempt.answer),
        "format token in the text": Attempt(f"{attempt.thinking}</think>", attempt.answer),
        "unfinished": Attempt(attempt.thinking, attempt.answer, fault="unfinished"),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "wrong answer",
        "repetitive",
        "guessing",
        "language-mixed",
        "thinking inconsistent with answer",
        "no thinking",
        "format token in the text",
        "unfinished",
    ],
)
def test_a_bad_first_attempt_is_dropped_by_name_and_the_second_kept(how):
    def teacher(problem, rng):
        (good,) = programmatic_teacher(problem, rng)
        yield spoil(good, how)
        yield good
        raise AssertionError("a third attempt was asked for")

    chains, manifest = build_chains(chain_sum(), {"chain_sum": 10}, seed=0, teacher=teacher)
    assert manifest.to_dict() == {"kept": {"chain_sum": 10}, "dropped": {how: 10}, "total": 10}
    assert chains == build_chains(chain_sum(), {"chain_sum": 10}, seed=0)[0]


def test_a_teacher_that_is_always_wrong_is_a_user_error():
    def teacher(problem, rng):
        yield Attempt("1+1=3", "\\boxed{3}")

    with pytest.raises(UserError, match=r"only 0 of 2 chains of `chain_sum`") as error:
        build_chains(chain_sum(), {"chain_sum": 2}, seed=0, teacher=teacher)
    assert "'wrong answer': 140" in error.value.hint  # 20 * 2 + 100 problems


def test_a_family_without_a_teacher_is_a_user_error():
    source = build_source("lcm", SourceConfig(type="reasoning_gym"))
    with pytest.raises(UserError, match="`lcm` has no programmatic teacher"):
        build_chains({"lcm": source}, {"lcm": 1}, seed=0)


def test_unreadable_tasks_are_unjudged_not_wrong():
    problem = Problem(
        id="x", source="x", kind="math", messages=(Message("user", "?"),), verifier="reasoning_gym", answer=None
    )
    assert ChainFilter({})([Chain(problem, "1+1=2", "\\boxed{2}")]) == ["unjudged"]


@pytest.mark.parametrize(
    ("thinking", "answer", "agrees"),
    [
        ("4+7=11\n11-18=-7", "\\boxed{-7}", True),
        ("3+8=11\n11-18=-7", "\\boxed{7}", False),
        ("20-12=8", "\\boxed{12}", True),  # a minus after a number is no sign
        ("12%6=0", "\\boxed{6}", True),
        ("no numbers", "\\boxed{6}", True),
        ("6" + " and so on" * 40 + " it is 7", "\\boxed{6}", False),  # arrived at something else in the end
    ],
)
def test_thinking_agrees_with_the_answer(thinking, answer, agrees):
    problem = build_source("chain_sum", CHAIN_SUM).problem("train", 0)
    assert thinking_agrees(Chain(problem, thinking, answer)) is agrees
