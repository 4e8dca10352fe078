"""`openqwq recipe list` and `init`, recipes by name, and `openqwq completion`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from openqwq.cli.main import main, verbs
from openqwq.config import find_recipe, load_recipe, shipped_recipes
from openqwq.errors import UserError

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_recipe_of_the_checkout_is_shipped_under_its_name(capsys):
    names = {file.relative_to(RECIPES).with_suffix("").as_posix() for file in RECIPES.rglob("*.toml")}
    assert set(shipped_recipes()) == names and {"tiny", "smoke", "controls/sft-only"} <= names
    assert main(["recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == names and all(len(line.split()) > 2 for line in lines)


def test_a_recipe_is_found_by_name_and_by_path(capsys):
    by_name, by_path = load_recipe("tiny"), load_recipe(RECIPES / "tiny.toml")
    assert by_name.name == by_path.name == "tiny" and by_name.stage == by_path.stage
    assert Path(by_name.model.path).resolve() == (RECIPES / "base" / "tiny").resolve()
    assert main(["recipe", "check", "tiny"]) == 0


def test_an_unknown_name_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as near:
        find_recipe("tyny")
    assert near.value.hint == "did you mean `tiny`?"
    with pytest.raises(UserError) as far:
        find_recipe("qqqqqqq")
    assert "openqwq recipe list" in far.value.hint and "smoke" in far.value.hint
    (tmp_path / "tiny").write_text("[")  # a file of that name comes first
    assert find_recipe("tiny") == Path("tiny")
    assert main(["recipe", "check", "absent.toml"]) == 2


def test_init_writes_a_recipe_that_passes_its_check(tmp_path, capsys):
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--model", str(RECIPES / "base" / "tiny"), "--data", str(tmp_path / "rows.jsonl")]
    recipe = tmp_path / "sub" / "mine.toml"
    recipe.parent.mkdir()
    assert main(["recipe", "init", str(recipe), *words]) == 0
    assert load_recipe(recipe).stage["rl"].learning_rate == 1e-6
    assert main(["recipe", "check", str(recipe)]) == 0, capsys.readouterr().err
    assert main(["recipe", "init", str(recipe), *words]) == 2
    assert main(["recipe", "init", str(tmp_path / "other.toml")]) == 2
    assert "needs a model and data" in capsys.readouterr().err
    assert main(["recipe", "show"]) == 2


def test_completion_knows_every_verb(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in verbs())
    if shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert main(["completion", "fish"]) == 2
