"""`openqwq data problems`: what a source gives, as a file for the other commands."""

import json

import pytest

from openqwq.cli.main import main
from openqwq.log import read_jsonl

RECIPE = """
[model]
preset = "tiny"
[source.mine]
type = "jsonl"
path = "rows.jsonl"
[source.gcd]
type = "reasoning_gym"
config = { min_value = 2, max_value = 9 }
[stage.rl]
kind = "rl"
mix = { mine = 1.0 }
[eval]
families = ["gcd"]
problems_per_family = 12
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe with a file of 20 rows, of which two are alike."""
    rows = [
        {"question": f"{i} plus one is which number then, if you please, and why?", "answer": str(i + 1)}
        for i in range(20)
    ]
    rows[13]["question"] = rows[12]["question"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def write(recipe, *arguments):
    output = recipe.parent / "out.jsonl"
    assert main(["data", "problems", str(recipe), *arguments, "--output", str(output)]) == 0
    return read_jsonl(output)


def test_a_file_s_part_is_written_with_each_text_once_and_overlaps_left_out(recipe, capsys):
    (recipe.parent / "test.txt").write_text("And 3 plus one is which number then, if you please, and why not?\n")
    rows = write(recipe, "mine", "--avoid", str(recipe.parent / "test.txt"), "--ngram", "12", "--json")
    assert json.loads(capsys.readouterr().out) == {"kept": 14, "dropped, held out": 0, "dropped, overlap": 1}
    assert [row["id"] for row in rows[:3]] == ["mine/3", "mine/5", "mine/6"]
    assert [row["id"] for row in write(recipe, "mine", "--split", "held_out")] == ["mine/1", "mine/11"]
    assert [row["answer"] for row in write(recipe, "mine", "-n", "2")] == ["3", "4"]


def test_of_a_generator_a_count_is_needed_and_held_out_texts_are_left_out(recipe, capsys):
    output = str(recipe.parent / "out.jsonl")
    assert main(["data", "problems", str(recipe), "gcd", "--output", output]) == 2
    assert "--count 1000" in capsys.readouterr().err
    rows = write(recipe, "gcd", "-n", "40")
    held = write(recipe, "gcd", "-n", "12", "--split", "held_out")
    texts = {row["messages"][0]["content"] for row in rows}
    assert len(held) == 12 and len(texts) == len(rows) < 40
    assert not texts & {row["messages"][0]["content"] for row in held}


def test_an_unknown_source_is_a_user_error(recipe, capsys):
    assert main(["data", "problems", str(recipe), "mien", "--output", "x"]) == 2
    assert "did you mean `mine`?" in capsys.readouterr().err
