"""A newcomer's run: own reward and data from files and from Python, checks before it starts, folders that stay free."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sums_recipe import BASE

import openqwq
from openqwq.cli.main import main
from openqwq.config import recipe_from_tables
from openqwq.errors import UserError
from openqwq.types import Problem

RL = {"kind": "rl", "mix": {"mine": 1.0}, "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 4, "max_refills": 0}
STAGES = {"rl": {**RL, "max_completion_tokens": 8, "learning_rate": 1e-4}}
TABLES = {"threads": 1, "model": {"path": str(BASE)}, "stage": STAGES}
ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1), "level": i} for i in range(12)]
REWARDS = """
def score(problem, completion, level):
    return {"letters": -sum(map(ord, completion)) / 100, "level": 0.5 * level}
"""
RECIPE = """
threads = 1
[model]
path = "{base}"
[source.mine]
type = "jsonl"
path = "mine.jsonl"
verifier = "rewards.py:score"
[stage.rl]
kind = "rl"
mix = {{ mine = 1.0 }}
steps = 1
prompts_per_step = 2
samples_per_prompt = 4
max_refills = 0
max_completion_tokens = 8
learning_rate = 1e-4
[eval]
families = ["mine"]
max_completion_tokens = 8
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.toml").write_text(RECIPE.format(base=BASE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def test_a_reward_in_a_file_is_trained_on_and_its_parts_are_logged(folder, capsys):
    assert main(["recipe", "check", "mine.toml"]) == 0
    out = capsys.readouterr().out
    assert "ok: rl (rl); 1 family evaluated" in out and "not checked: the weights of" in out
    assert main(["train", "mine.toml"]) == 0
    step, evaluation = rows("runs/mine")
    assert step["reward"] == pytest.approx(step["parts"]["letters"] + step["parts"]["level"])
    assert step["reward"] < 1 and set(step["sources"]["mine"]["parts"]) == {"letters", "level"}
    assert evaluation["n"] == 2  # all held-out problems of the 12
    samples = [json.loads(line) for line in (folder / "runs/mine/samples.jsonl").read_text().splitlines()]
    assert all(sample["reward"] == sum(sample["parts"].values()) for sample in samples)
    saved = json.loads((folder / "runs/mine/recipe.json").read_text())
    assert list(saved["code"]) == [str(folder / "rewards.py")]


def test_a_run_is_not_resumed_with_another_reward(folder, capsys):
    assert main(["train", "mine.toml"]) == 0
    assert main(["train", "mine.toml", "--resume"]) == 0
    (folder / "rewards.py").write_text(REWARDS.replace("0.5", "0.6"))
    assert main(["train", "mine.toml", "--resume"]) == 2
    assert "rewards.py is not what it was" in capsys.readouterr().err
    assert main(["train", "mine.toml"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["train", "mine.toml", "--overwrite"]) == 0
    assert len(rows("runs/mine")) == 2


FILE, STAGE = 'path = "mine.jsonl"', "[stage.rl]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rewards.py:score"', '"rewards.py:scores"', "there is no function `scores`"),
        ('"rewards.py:score"', '"absent.py:score"', "absent.py, which does not exist"),
        ('"rewards.py:score"', '"maths"', "ask for the verifier `maths`"),
        ('type = "jsonl"', 'type = "jsonnl"', "did you mean `jsonl`"),
        (FILE, f'{FILE}\ndataset = "x"', "does not read it"),
        (FILE, f"{FILE}\nverifier_options = {{ bonus = 1 }}", "unknown option"),
        (FILE, f'{FILE}\nconfig = {{ column = {{ prompt = "q" }} }}', "did you mean `columns`"),
        (STAGE, f'[stage.sft]\nkind = "sft"\nchains_file = "rewards.py"\n{STAGE}', "is no chain"),
        (STAGE, f'[stage.sft]\nkind = "sft"\nchains = {{ mine = 3 }}\n{STAGE}', "no programmatic"),
    ],
)
def test_what_check_finds_is_what_train_finds_and_neither_leaves_a_folder(folder, capsys, old, new, message):
    text = (folder / "mine.toml").read_text()
    assert old in text
    (folder / "mine.toml").write_text(text.replace(old, new, 1))
    for command in (["recipe", "check"], ["train"]):
        assert main([*command, "mine.toml"]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()
    (folder / "mine.toml").write_text(text)
    assert main(["train", "mine.toml"]) == 0


def test_a_column_that_the_reward_needs_and_a_row_lacks_is_found_before_the_start(folder, capsys):
    (folder / "mine.jsonl").write_text("".join(json.dumps({**r, "level": 1}) + "\n" for r in ROWS))
    with open(folder / "mine.jsonl", "a") as file:
        file.write(json.dumps({"question": "9 + 9?", "answer": "18"}) + "\n")
    assert main(["recipe", "check", "mine.toml"]) == 2
    assert (
        "`rewards.py:score` needs `level`, which problem `mine/13` of the source `mine` lacks"
        in capsys.readouterr().err
    )


def test_a_start_that_fails_later_takes_its_folder_away(folder, capsys):
    empty = folder / "model"
    empty.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (empty / name).write_bytes((BASE / name).read_bytes())
    assert main(["train", "mine.toml", "--set", f"model.path={empty}"]) == 2
    assert not (folder / "runs" / "mine").exists()
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "runs" / "mine" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(["train", "mine.toml", "--overwrite"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert (folder / "runs" / "mine" / "notes.txt").exists()


def test_functions_and_rows_are_handed_in_from_python(folder):
    bonus = 0.25

    def mine(problem, completion, level):
        return bonus * level - len(completion)

    outcome = openqwq.train(TABLES, "out", verifiers={"short": mine}, sources={"mine": ROWS})
    assert outcome.folder == Path("out") and (folder / "out" / "final" / "model.safetensors").exists()
    assert rows("out")[0]["reward"] < 3
    code = json.loads((folder / "out" / "recipe.json").read_text())["code"]
    assert set(code) == {"verifiers.short", "sources.mine"}
    assert openqwq.train(TABLES, "out", verifiers={"short": mine}, sources={"mine": ROWS}, resume=True).folder
    with pytest.raises(UserError, match=r"sources\.mine is not what it was"):
        openqwq.train(TABLES, "out", verifiers={"short": mine}, sources={"mine": ROWS[:-1]}, resume=True)
    with pytest.raises(UserError, match=r"verifiers\.short is not what it was"):
        openqwq.train(TABLES, "out", verifiers={"short": lambda p, c: 1}, sources={"mine": ROWS}, resume=True)


def test_a_function_of_trl_and_a_recipe_object_do_as_well(folder):
    def by_length(prompts, completions, level, **columns):
        assert len(prompts) == len(completions) == len(level) == len(columns["answer"]) == 4
        return [float(len(text)) for text in completions]

    problems = [Problem.from_dict({**p, "verifier": "by_length"}) for p in whole()]
    source = {"mine": {"type": "python", "verifier": "by_length"}}
    recipe = recipe_from_tables({**TABLES, "source": source})
    openqwq.train(recipe, "a", verifiers={"by_length": by_length}, sources={"mine": problems})
    step = rows("a")[0]
    assert step["unjudged"] == 0 and step["reward"] > 0


def whole():
    for row in ROWS:
        message = {"role": "user", "content": row["question"]}
        yield {
            "id": row["question"],
            "source": "s",
            "kind": "math",
            "messages": [message],
            "answer": row["answer"],
            "metadata": {"level": row["level"]},
        }


def test_a_reward_that_fails_throughout_says_why_in_the_log(folder, caplog):
    def broken(problem, completion):
        return problem.metadata["colour"]

    with caplog.at_level("INFO", "openqwq"):
        openqwq.train(TABLES, "out", verifiers={"broken": broken}, sources={"mine": ROWS})
    assert "broken raised KeyError: 'colour' (test_pipeline_own.py, line" in caplog.text
    assert rows("out")[0]["unjudged"] == 1.0


def test_importing_the_package_stays_light_and_train_is_there():
    code = "import sys, openqwq; assert callable(openqwq.train); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import openqwq.train.rl, openqwq; assert callable(openqwq.train) and openqwq.train.rl.run_rl"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
