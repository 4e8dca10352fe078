"""Problem sources: the same problem on every machine, splits that never meet, errors that say what to do."""

import json
from random import Random

import pytest

from openqwq.config import SourceConfig
from openqwq.data import Mixture, build_source, held_out, problem_texts
from openqwq.data.keys import SPLITS, item_key
from openqwq.data.mixture import share_out
from openqwq.data.sources.gym import BY_SEED
from openqwq.data.sources.instructions import TOPICS, draw_rules, instruction_prompt, write_text
from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier

SMALL_GCD = SourceConfig(type="reasoning_gym", dataset="gcd", config={"min_value": 2, "max_value": 6})
CONFIGS = {
    "chain_sum": SourceConfig(type="reasoning_gym", prompt_suffix=" Think."),
    "gcd": SMALL_GCD,
    "python": SourceConfig(type="python_functions"),
    "words": SourceConfig(type="instructions"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_key_always_gives_the_same_problem(name):
    first, second = build_source(name, CONFIGS[name]), build_source(name, CONFIGS[name])
    for index in range(20):
        key = item_key("train", name, index)
        problem = first.problem("train", key)
        assert problem == second.problem("train", key)
        assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))).prompt == problem.prompt
        assert problem.source == name
    assert problem.prompt.endswith(CONFIGS[name].prompt_suffix)


@pytest.mark.parametrize("dataset", sorted(BY_SEED))
def test_data_sets_with_few_items_give_many_different_problems(dataset):
    source = build_source("x", SourceConfig(type="reasoning_gym", dataset=dataset))
    keys = [item_key(split, dataset, i) for split in ("train", "held_out") for i in range(3)]
    texts = {source.problem("train", key).prompt for key in keys}
    assert len(texts) > 3


@pytest.mark.parametrize("dataset", ["pool_matrix", "propositional_logic"])
def test_data_sets_that_no_verifier_can_judge_are_refused_at_once(dataset):
    with pytest.raises(UserError, match=f"`{dataset}` is refused"):
        build_source("x", SourceConfig(type="reasoning_gym", dataset=dataset))


def test_keys_of_different_splits_are_disjoint_and_fixed():
    tops = {item_key(split, 1, "a") >> 48 for split in SPLITS}
    assert tops == set(range(len(SPLITS)))
    assert item_key("held_out", "chain_sum", 17) == 0x1ECD72A3898C2  # blake2b under the split's 1
    assert item_key("train", "a", "b") != item_key("train", "ab", "")


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_hold_no_held_out_problem(name):
    """Also of a family with some 25 problems, half of which are held out."""
    source = build_source(name, CONFIGS[name])
    unseen = problem_texts(held_out(source, 12))
    assert len(unseen) == 12
    mixture = Mixture({name: source}, {name: 1.0}, seed=0, stage="rl", exclude=unseen)
    trained = [problem.prompt for step in range(20) for problem in mixture.batch(step, 16)]
    assert len(trained) == 320
    assert not unseen & set(trained)


@pytest.fixture
def questions(tmp_path):
    """A source of 30 questions of which 24 are trained on."""
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(30)))
    return build_source("sums", SourceConfig(type="jsonl", path=str(file)))


def test_every_problem_of_a_file_comes_once_in_each_epoch_in_another_order(questions):
    part = problem_texts(questions.part("train"))
    unseen = frozenset(sorted(part)[:4])
    mixture = Mixture({"sums": questions}, {"sums": 1.0}, seed=0, stage="rl", exclude=unseen)
    # seven at a time, then a refill of three: two epochs of the 20 that may be trained on
    taken = [
        p.prompt for step in range(4) for count, refill in ((7, 0), (3, 1)) for p in mixture.batch(step, count, refill)
    ]
    first, second = taken[:20], taken[20:]
    assert set(first) == set(second) == part - unseen and len(set(first)) == 20
    assert first != second


def test_a_mixture_goes_on_in_the_epoch_where_its_state_was_saved(questions):
    def mixture():
        sources = {"sums": questions, "python": build_source("python", CONFIGS["python"])}
        return Mixture(sources, {"sums": 2.0, "python": 1.0}, seed=0, stage="rl")

    whole, first, second = mixture(), mixture(), mixture()
    expected = [p.id for step in range(9) for p in whole.batch(step, 6)]
    found = [p.id for step in range(4) for p in first.batch(step, 6)]
    second.load_state(json.loads(json.dumps(first.state())))
    found += [p.id for step in range(4, 9) for p in second.batch(step, 6)]
    assert found == expected


def test_a_file_that_is_held_out_as_a_whole_cannot_be_trained_on(questions):
    every = problem_texts(questions.part("train"))
    with pytest.raises(UserError, match="48 problems in a row were held-out ones"):
        Mixture({"sums": questions}, {"sums": 1.0}, seed=0, stage="rl", exclude=every).batch(0, 1)


def test_a_source_that_is_held_out_as_a_whole_cannot_be_trained_on():
    source = build_source("gcd", SMALL_GCD)
    every = frozenset(source.problem("train", item_key("train", i)).prompt for i in range(2000))
    assert len(every) == 25  # ordered pairs of 2 to 6
    with pytest.raises(UserError, match="nothing to train on"):
        Mixture({"gcd": source}, {"gcd": 1.0}, seed=0, stage="rl", exclude=every).batch(0, 1)


def test_held_out_problems_differ_and_are_bounded_by_the_source():
    source = build_source("gcd", SMALL_GCD)
    assert len(problem_texts(held_out(source, 25))) == 25
    with pytest.raises(UserError, match="only 25 different problems where 26"):
        held_out(source, 26)


def test_a_batch_has_the_exact_shares():
    names = share_out({"a": 0.7, "b": 0.3, "c": 0.0}, 20, Random(0))
    assert (names.count("a"), names.count("b"), names.count("c")) == (14, 6, 0)
    names = share_out({"a": 0.6, "b": 0.3, "c": 0.1}, 10, Random(0))
    assert (names.count("a"), names.count("b"), names.count("c")) == (6, 3, 1)


def test_what_does_not_divide_is_shared_by_chance():
    counts = [share_out({"a": 1, "b": 3}, 2, Random(seed)).count("a") for seed in range(2000)]
    assert set(counts) == {0, 1}
    assert 0.45 < sum(counts) / len(counts) < 0.55  # 2 * 1 / 4


def test_batches_repeat_by_step_and_differ_between_steps_stages_and_refills():
    source = build_source("python", CONFIGS["python"])

    def texts(seed=0, stage="rl", step=3, refill=0):
        mixture = Mixture({"python": source}, {"python": 1.0}, seed=seed, stage=stage)
        return [problem.prompt for problem in mixture.batch(step, 8, refill)]

    assert texts() == texts()
    for other in (texts(seed=1), texts(stage="rl2"), texts(step=4), texts(refill=1), texts(refill=2)):
        assert not set(other) & set(texts())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SourceConfig(type="corpora"), "has the type `corpora`"),
        (SourceConfig(type="reasoning_gym", dataset="chain_sums"), "chain_sums"),
        (SourceConfig(type="reasoning_gym", dataset="gcd", config={"max_valu": 3}), "unknown key `max_valu`"),
        (SourceConfig(type="reasoning_gym", dataset="gcd", config={"max_value": -3}), "refused by reasoning-gym"),
        (SourceConfig(type="python_functions", config={"test": 3}), "unknown key `test`"),
        (SourceConfig(type="python_functions", config={"tests": 1}), "`tests` is 1"),
        (SourceConfig(type="instructions", config={"rules": 3}), "unknown key `rules`"),
        (SourceConfig(type="instructions", config={"min_rules": 3, "max_rules": 2}), "does not hold"),
        (SourceConfig(type="jsonl", path="nowhere.jsonl"), "no file at nowhere.jsonl"),
    ],
)
def test_a_wrong_source_is_a_user_error(config, message):
    with pytest.raises(UserError, match=message) as error:
        build_source("x", config)
    assert "x" in error.value.message


def jsonl_source(path, rows, **fields):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build_source("mine", SourceConfig(type="jsonl", path=str(path), **fields))


def test_a_file_of_problems_is_cut_into_disjoint_parts(tmp_path):
    rows = [{"question": f"{i}+1?", "answer": str(i + 1)} for i in range(30)]
    source = jsonl_source(tmp_path / "p.jsonl", rows, prompt_suffix="!")
    parts = {
        split: {source.problem(split, item_key(split, i)).prompt for i in range(500)}
        for split in ("held_out", "gate", "train", "chains")
    }
    assert parts["held_out"] == {"0+1?!", "10+1?!", "20+1?!"}
    assert parts["gate"] == {"1+1?!", "11+1?!", "21+1?!"}
    assert len(parts["train"]) == 24 and parts["chains"] == parts["train"]
    assert not parts["train"] & (parts["held_out"] | parts["gate"])
    first = source.problem("held_out", 0)
    assert (first.id, first.source, first.kind, first.verifier, first.answer) == ("mine/1", "mine", "math", "math", "1")


def test_a_file_may_hold_whole_problems(tmp_path):
    whole = build_source("python", CONFIGS["python"]).problem("train", 5)
    source = jsonl_source(tmp_path / "p.jsonl", [whole.to_dict()] * 10)
    assert source.problem("train", 0).to_dict() == {**whole.to_dict(), "source": "mine"}
    assert (source.kind, source.verifier) == ("code", "code")
    other = jsonl_source(tmp_path / "p.jsonl", [whole.to_dict()] * 10, kind="programs")
    assert other.kind == other.problem("train", 0).kind == "programs"


@pytest.mark.parametrize(
    "row", ['{"question": 1}\n', "[1, 2]\n", '"text"\n', "{\n", '{"messages": [3]}\n', '{"a": 1}\n']
)
def test_a_broken_row_is_named_by_its_line(tmp_path, row):
    good = [{"question": "1+1?", "answer": "2"}] * 10
    with pytest.raises(UserError, match=r"p\.jsonl:11 is no problem"):
        jsonl_source(tmp_path / "p.jsonl", [*good, row])


def test_a_file_that_is_no_text_is_a_user_error(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(UserError, match=r"p\.jsonl:1 is no problem"):
        build_source("mine", SourceConfig(type="jsonl", path=str(path)))


def test_an_empty_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds 0 problems"):
        jsonl_source(tmp_path / "p.jsonl", [])


def test_written_texts_obey_their_rules_for_every_topic():
    verifier = get_verifier("instructions")
    rng = Random(1)
    for topic in TOPICS:
        for _ in range(300):
            rules = draw_rules(rng, topic, rng.randint(1, 6))
            text = write_text(topic, rules, rng)
            answer = {"instructions": [{"id": rule.id, "kwargs": rule.kwargs} for rule in rules]}
            problem = Problem(
                id="x",
                source="words",
                kind="instruction",
                messages=(Message("user", instruction_prompt(topic, rules)),),
                verifier="instructions",
                answer=answer,
            )
            verdict = verifier(problem, f"thinking\n</think>\n\n{text}")
            assert verdict.status == "correct", (problem.prompt, text, verdict.details)


@pytest.mark.parametrize("operators", [["+", "*"], ["-", "*"], ["/"]])
def test_options_that_make_the_library_s_answers_wrong_are_refused(operators):
    config = {"operators": operators, "allow_parentheses": False}
    with pytest.raises(UserError, match="ignore precedence"):
        build_source("basic_arithmetic", SourceConfig(type="reasoning_gym", config=config))


@pytest.mark.parametrize("config", [{"operators": ["+", "-"], "allow_parentheses": False}, {"operators": ["+", "*"]}])
def test_answers_of_basic_arithmetic_are_those_of_python(config):
    source = build_source("basic_arithmetic", SourceConfig(type="reasoning_gym", config=config))
    for key in range(200):
        entry = source.problem("chains", key).answer["entry"]
        assert eval(entry["metadata"]["expression"]) == int(entry["answer"])
