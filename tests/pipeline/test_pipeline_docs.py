"""The Python and the recipes of the documentation run as they stand."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from openqwq.cli.main import main

ROOT = Path(__file__).parents[2]


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks("docs/python.md", "python"))))
def test_python_of_the_documentation_runs(folder, number):
    file = folder / "documented.py"
    file.write_text(blocks("docs/python.md", "python")[number])
    assert runpy.run_path(str(file))["__file__"] == str(file)


def test_the_ten_lines_of_your_own_data_and_reward_train(folder):
    """README's files, as they stand, but for fewer and shorter steps."""
    [rewards] = [text for text in blocks("README.md", "python") if text.startswith("# rewards.py")]
    [recipe] = [text for text in blocks("README.md", "toml") if "rewards.py:score" in text]
    (folder / "rewards.py").write_text(rewards)
    (folder / "mine.toml").write_text(recipe)
    rows = re.search(r'^\{"question".*$', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (folder / "problems.jsonl").write_text("".join(rows[0].replace("7", str(i)) + "\n" for i in range(9)))
    assert "rl" in tomllib.loads(recipe)["stage"]
    assert main(["recipe", "check", "mine.toml"]) == 0
    small = ["stage.rl.steps=1", "stage.rl.prompts_per_step=4", "stage.rl.max_completion_tokens=16"]
    small += ["eval.max_completion_tokens=16", "threads=1"]
    sets = [part for change in small for part in ("--set", change)]
    assert main(["train", "mine.toml", "--out", "run", *sets]) in (0, 1)  # 1: no group of this one step had signal
    assert (folder / "run" / "final" / "model.safetensors").exists()
