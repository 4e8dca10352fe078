"""Rows of one's own: their forms, the columns that reach a verifier, small files, and what the errors say."""

import json

import pytest

from openqwq.config import SourceConfig, load_recipe
from openqwq.data import build_source, build_sources, held_out
from openqwq.data.sources.jsonl import read_problem_file
from openqwq.data.sources.python_source import given_rows
from openqwq.errors import UserError
from openqwq.types import Message, Problem


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def source(tmp_path, rows, **fields):
    return build_source("mine", SourceConfig(type="jsonl", path=write(tmp_path / "p.jsonl", rows), **fields))


def first(tmp_path, row, **fields):
    return source(tmp_path, [row] * 3, **fields).problem("held_out", 0)


TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7*8?"}]


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"question": "7*8?", "answer": "56"}, "7*8?", "56"),
        ({"prompt": "7*8?", "answer": 56}, "7*8?", 56),
        ({"problem": "7*8?", "solution": "56"}, "7*8?", "56"),
        ({"prompt": "7*8?", "ground_truth": "56"}, "7*8?", "56"),
        ({"messages": TALK, "answer": "56"}, "7*8?", "56"),
        ({"prompt": TALK, "answer": "56"}, "7*8?", "56"),
        ({"conversations": [{"from": "human", "value": "7*8?"}], "answer": "56"}, "7*8?", "56"),
        ({"instruction": "Multiply.", "input": "7, 8", "target": "56"}, "Multiply.\n\n7, 8", "56"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "7*8?"}]}], "answer": "56"}, "7*8?", "56"),
    ],
)
def test_rows_are_taken_in_every_usual_form_with_the_suffix_of_their_source(tmp_path, row, prompt, answer):
    problem = first(tmp_path, row, prompt_suffix=" Box it.", kind="sums")
    assert (problem.prompt, problem.answer, problem.verifier, problem.kind) == (
        prompt + " Box it.",
        answer,
        "math",
        "sums",
    )


def test_every_further_column_reaches_the_problem(tmp_path):
    row = {"question": "7*8?", "answer": "56", "level": 3, "tags": ["a"], "solution": "by hand"}
    assert first(tmp_path, row).metadata == {"question": "7*8?", "level": 3, "tags": ["a"], "solution": "by hand"}
    assert first(tmp_path, {"messages": TALK, "answer": "1", "level": 3}).metadata == {
        "level": 3,
        "conversational": True,
    }


def test_columns_are_named_by_the_source(tmp_path):
    row = {"q": "7*8?", "meta": {"gold": "so 56 #### 56"}, "key": "k1", "judge": "length"}
    columns = {"prompt": "q", "answer": "meta.gold", "id": "key", "verifier": "judge"}
    problem = first(tmp_path, row, config={"columns": columns, "answer_after": "####"})
    assert (problem.prompt, problem.answer, problem.id, problem.verifier) == ("7*8?", "56", "k1", "length")
    with pytest.raises(UserError, match="unknown key `colums`"):
        first(tmp_path, row, config={"colums": columns})


def test_a_row_needs_an_answer_only_where_its_verifier_does(tmp_path):
    row = {"question": "Write something short."}
    assert first(tmp_path, row, verifier="length").answer is None
    assert first(tmp_path, row, verifier="rewards.py:score").answer is None
    with pytest.raises(UserError, match=r"p\.jsonl:1 is no problem: it has none of the columns answer, ground_truth"):
        first(tmp_path, row)
    weights = {"weights": {"format": 1.0, "math": 1.0}}
    with pytest.raises(UserError, match="none of the columns answer"):
        first(tmp_path, row, verifier="composite", verifier_options=weights)


WHOLE = Problem(id="a", source="s", kind="code", messages=(Message("user", "f?"),), verifier="code", answer={"t": 1})


def test_what_a_source_says_holds_for_whole_problems_too_or_is_refused(tmp_path):
    assert first(tmp_path, WHOLE.to_dict(), prompt_suffix="!").prompt == "f?!"
    assert first(tmp_path, WHOLE.to_dict(), verifier="code").verifier == "code"
    with pytest.raises(UserError, match="it names the verifier `code`, and the source `math`"):
        first(tmp_path, WHOLE.to_dict(), verifier="math")
    with pytest.raises(UserError, match="it names the verifier `code`, and the source `math`"):
        first(tmp_path, {"question": "1?", "answer": "1", "verifier": "code"}, verifier="math")
    assert first(tmp_path, {"messages": TALK, "answer": "8"}, verifier="code").verifier == "code"
    file = tmp_path / "e.jsonl"
    write(file, [WHOLE.to_dict(), {"question": "1?", "answer": "1"}])
    assert [p.verifier for p in read_problem_file(file, verifier="length")] == ["code", "length"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "gsm8k"}, "`dataset` is 'gsm8k' in source `mine`, but the type `jsonl` does not read it"),
        ({"verifier": "maths"}, "problems of the source `mine` ask for the verifier `maths`, which is not there"),
        ({"config": {"min_term": 2}}, "unknown key `min_term`"),
        ({"held_out_path": "nowhere.jsonl"}, r"no file at nowhere\.jsonl"),
    ],
)
def test_nothing_in_a_source_is_ignored(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        source(tmp_path, [{"question": "1?", "answer": "1"}] * 20, **fields)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]", "it is a list, not an object"),
        (b'"text"', "it is a text, not an object"),
        (b"null", "it is null, not an object"),
        (b"{", "it is no JSON"),
        (b"[" * 5000, "it is nested too deeply|it is no JSON"),
        (b'{"question": "1?"}', "it has none of the columns answer"),
        (b'{"question": 3, "answer": "1"}', "the prompt is neither a text nor a list of messages .`question` is 3"),
        (b'{"messages": [{"role": "bot", "content": "x"}], "answer": "1"}', "its `role` is 'bot'"),
        (b'{"messages": [{"role": "user", "content": 3}], "answer": "1"}', "its `content` is a number, not a text"),
        (
            b'{"messages": [{"role": "assistant", "content": "x"}], "answer": "1"}',
            "the last message is the assistant's",
        ),
        (b'{"question": "1?", "answer": ""}', "the answer in `answer` is empty"),
        (b'{"question": "1?", "answer": "1", "verifier": "mathh"}', "no verifier `mathh` .did you mean `math`"),
        (
            b'{"id": "a", "source": "s", "kind": 3, "messages": [], "verifier": "math"}',
            "`kind` is a number, not a text",
        ),
        ("{'question'}".encode("utf-16"), "it is not UTF-8 text"),
        (b"1" * 5000, "it is no JSON|a number, not an object"),
    ],
)
def test_a_bad_row_is_named_with_its_line_its_fault_and_an_example(tmp_path, line, why):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"question": "1+1?", "answer": "2"}\n\n' + line.replace(b"\n", b"") + b"\n")
    with pytest.raises(UserError, match=rf"p\.jsonl:3 is no problem: .*({why})") as error:
        build_source("mine", SourceConfig(type="jsonl", path=str(path)))
    assert error.value.hint == 'a row looks like {"question": "7 * 8?", "answer": "56"}'


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"question": "1+1?", "answer": "2"}\n' * 3)
    assert build_source("mine", SourceConfig(type="jsonl", path=str(path))).problem("held_out", 0).prompt == "1+1?"


def numbered(count, first=0):
    return [{"question": f"{i}?", "answer": str(i)} for i in range(first, first + count)]


def test_a_small_file_is_evaluated_on_what_there_is_and_says_so(tmp_path, caplog):
    built = source(tmp_path, numbered(12))
    with caplog.at_level("INFO", "openqwq"):
        assert [p.prompt for p in held_out(built, 512)] == ["0?", "10?"]
    assert "source `mine` has 2 held-out problems, of 512 asked for" in caplog.text
    assert len(built.part("train")) == 8
    smallest = source(tmp_path, numbered(3))
    assert [len(smallest.part(split)) for split in ("held_out", "gate", "train")] == [1, 1, 1]
    with pytest.raises(UserError, match="holds 2 problems, and 3 are the least"):
        source(tmp_path, numbered(2))


def test_a_held_out_file_is_evaluated_on_whole(tmp_path):
    path = write(tmp_path / "test.jsonl", numbered(5, 100))
    built = source(tmp_path, numbered(20), held_out_path=path)
    assert {p.prompt for p in held_out(built, 512)} == {f"{i}?" for i in range(100, 105)}
    assert len(built.part("train")) == 18 and {p.prompt for p in built.part("gate")} == {"1?", "11?"}
    alone = source(tmp_path, numbered(1), held_out_path=path)
    assert [p.prompt for p in alone.part("train")] == ["0?"]


def test_ids_that_repeat_are_replaced_so_that_results_stay_apart(tmp_path):
    rows = [{"id": "a", "question": f"{i}?", "answer": "1"} for i in range(4)]
    built = source(tmp_path, rows)
    found = [p.id for split in ("held_out", "gate", "train") for p in built.part(split)]
    assert found == ["a", "mine/2", "mine/3", "mine/4"]


MAKERS = """
from openqwq.types import Message, Problem

def rows(count=12):
    for i in range(count):
        yield {"question": f"{i} + 1?", "answer": str(i + 1), "level": i}

def test_rows():
    return [{"prompt": "100 + 1?", "answer": "101"}]

def whole():
    return [Problem(id=str(i), source="x", kind="k", messages=(Message("user", f"{i}?"),), verifier="length")
            for i in range(3)]

def one(rng, largest=9):
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    return {"question": f"{a} + {b}?", "answer": str(a + b)}

def raises():
    yield {"question": "1?", "answer": "1"}
    raise OSError("no such data")

def no_rows():
    return ["text"]

def empty():
    return []
"""


@pytest.fixture
def made(tmp_path):
    (tmp_path / "problems.py").write_text(MAKERS)
    return lambda name, **fields: build_source(
        "mine", SourceConfig(type="python", path=f"{tmp_path / 'problems.py'}:{name}", **fields)
    )


def test_a_function_in_a_file_makes_problems(made, tmp_path):
    built = made("rows", config={"count": 20}, verifier="math", kind="sums", prompt_suffix=" Box it.")
    assert [len(built.part(split)) for split in ("held_out", "gate", "train")] == [2, 2, 16]
    problem = built.problem("held_out", 0)
    assert (problem.prompt, problem.answer, problem.kind) == ("0 + 1? Box it.", "1", "sums")
    assert problem.metadata["level"] == 0
    tested = made("rows", held_out_path=f"{tmp_path / 'problems.py'}:test_rows")
    assert [p.prompt for p in held_out(tested, 512)] == ["100 + 1?"]
    assert made("whole").problem("train", 0).verifier == "length"


def test_a_function_of_a_generator_never_runs_out_and_repeats_itself(made):
    built, again = made("one", config={"largest": 99}), made("one", config={"largest": 99})
    problems = held_out(built, 40)
    assert len({p.prompt for p in problems}) == 40
    assert [p.to_dict() for p in held_out(again, 40)] == [p.to_dict() for p in problems]
    assert built.problem("train", 5).prompt != built.problem("train", 6).prompt


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("raises", {}, r"raises raised OSError: no such data \(problems\.py, line \d+\)"),
        ("no_rows", {}, "row 1 is str, and not a table"),
        ("empty", {}, "gives no rows"),
        ("nothing", {}, "there is no function `nothing`"),
        ("rows", {"config": {"cuont": 3}}, "unknown key `cuont`"),
        ("rows", {"config": {"count": 2}}, "holds 2 problems"),
        ("rows", {"dataset": "x"}, "does not read it"),
    ],
)
def test_a_function_that_makes_no_problems_is_a_user_error(made, name, fields, message):
    with pytest.raises(UserError, match=message):
        made(name, **fields)


def test_rows_and_functions_are_handed_in_from_python():
    def one(rng):
        return {"question": f"{rng.random()}?", "answer": "1"}

    with given_rows({"mine": iter(numbered(12)), "own": one, "whole": [WHOLE] * 3}) as digests:
        assert len(build_source("mine", SourceConfig(type="python")).part("train")) == 8
        assert build_source("own", SourceConfig(type="python")).problem("train", 3).answer == "1"
        assert build_source("whole", SourceConfig(type="python")).problem("train", 3).verifier == "code"
        assert len(set(digests.values())) == 3
    with pytest.raises(UserError, match="no rows were handed in"):
        build_source("mine", SourceConfig(type="python"))


def test_a_recipe_finds_functions_and_held_out_files_beside_itself(tmp_path):
    (tmp_path / "rewards.py").write_text("def score(p, c):\n    return 1\n")
    (tmp_path / "problems.py").write_text(MAKERS)
    write(tmp_path / "test.jsonl", numbered(3))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        """[model]
preset = "tiny"
[source.a]
type = "python"
path = "problems.py:rows"
verifier = "rewards.py:score"
[source.b]
type = "jsonl"
path = "test.jsonl"
held_out_path = "test.jsonl"
verifier = "composite"
verifier_options = { weights = { mine = 1.0 }, parts = { mine = { verifier = "rewards.py:score" } } }
[stage.rl]
kind = "rl"
mix = { a = 1.0, b = 1.0 }
"""
    )
    sources = load_recipe(recipe).source
    assert sources["a"].path == f"{tmp_path / 'problems.py'}:rows"
    assert sources["a"].verifier == f"{tmp_path / 'rewards.py'}:score"
    assert sources["b"].verifier_options["parts"]["mine"]["verifier"] == f"{tmp_path / 'rewards.py'}:score"
    assert set(build_sources(sources)) == {"a", "b"}
    (tmp_path / "rewards.py").unlink()
    with pytest.raises(UserError, match=r"`verifier` in \[source\.a\] of .* is .*rewards\.py, which does not exist"):
        load_recipe(recipe)
    load_recipe(recipe, only_source="nothing of these")
