"""`openqwq train`, `report` and `eval` as commands on a run of one short stage: exit codes and messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openqwq.checkpoint.checksums import FinishedStages
from openqwq.cli.main import main

ROOT = Path(__file__).parents[2]
RECIPE = """
extends = {smoke!r}
name = "short"
[stage]
rl_math_code = false
reward_model = false
rl_general = false
[stage.pretrain]
tokens = 8_192
[stage.cold_start]
epochs = 0.2
[eval]
families = ["chain_sum"]
greedy_after = []
problems_per_family = 10
max_completion_tokens = 8
[[target]]
what = "a miracle"
stage = "cold_start"
over = "pretrain"
kinds = ["math"]
min_change = 90.0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "short.toml"
    file.write_text(RECIPE.format(smoke=str(ROOT / "recipes" / "smoke.toml")))
    return file


@pytest.fixture(scope="module")
def missed(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("missed") / "run"
    return out, main(["train", str(recipe), "--out", str(out)])


def test_a_missed_target_exits_1_after_everything_was_written(missed):
    out, code = missed
    assert code == 1
    (target,) = json.loads((out / "results.json").read_text())["targets"]
    assert target["met"] is False
    assert "a miracle" in (out / "report.html").read_text()
    assert (out / "final" / "model.safetensors").exists()


def test_a_finished_run_resumes_to_the_same_end(missed, recipe):
    out, _ = missed
    metrics = (out / "metrics.jsonl").read_text()
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 1
    assert (out / "metrics.jsonl").read_text() == metrics


def test_a_second_run_into_the_folder_is_a_user_error(missed, recipe, capsys):
    out, _ = missed
    assert main(["train", str(recipe), "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", str(recipe), "--out", str(out), "--resume", "--set", "seed=4"]) == 2
    assert "`seed`" in capsys.readouterr().err


def test_report_writes_both_files_again(missed, capsys):
    out, _ = missed
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").exists()
    assert str(out / "report.md") in capsys.readouterr().out


def test_eval_repeats_the_runs_scores_and_continues_where_it_stopped(missed, recipe, tmp_path, capsys):
    out, _ = missed
    command = ["eval", str(out / "final"), "--recipe", str(recipe), "--out", str(tmp_path / "e"), "--json"]
    assert main([*command, "--problems", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["chain_sum"]["n"] == 4
    rows = (tmp_path / "e" / "rows.jsonl").read_text()
    with open(tmp_path / "e" / "rows.jsonl", "a") as file:
        file.write('{"torn')
    assert main(command) == 0
    again = (tmp_path / "e" / "rows.jsonl").read_text()
    assert again.startswith(rows) and len(again.splitlines()) == 10
    assert again == (out / "eval" / "cold_start.jsonl").read_text()
    capsys.readouterr()
    assert main([*command, "--samples", "2"]) == 2
    assert "`samples`" in capsys.readouterr().err


def test_eval_of_a_file_judges_every_problem(missed, tmp_path, capsys):
    out, _ = missed
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i} + 1 =", "answer": str(i + 1)}) + "\n" for i in range(10)))
    assert main(["eval", str(out / "final"), "--data", str(data), "--max-tokens", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["sums"]
    assert (result["n"], result["kind"], result["unjudged"]) == (10, "math", 0)


def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(recipe, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "openqwq.cli.main", "train", str(recipe), "--out", str(out)]
    command += ["--set", "stage.pretrain.tokens=4_000_000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    said = f"continue with: openqwq train {recipe} --out {out} --set stage.pretrain.tokens=4_000_000 --resume"
    assert said in stderr and "Traceback" not in stderr
    states = sorted((out / "run_state").iterdir())
    assert json.loads((states[-1] / "state.json").read_text())["stage"] == "pretrain"
    assert main(["report", str(out)]) == 0  # also of a run that has not been evaluated yet
    assert "0 of 2 stages so far" in (out / "report.md").read_text()


def test_a_full_disk_is_one_clear_error_and_loses_nothing(recipe, tmp_path):
    out = tmp_path / "disk" / "run"
    out.parent.mkdir()
    train = f"{sys.executable} -m openqwq.cli.main train {recipe} --out {out}"
    script = f"mount -t tmpfs -o size=2m tmpfs {out.parent} && {train}; code=$?; ls {out}/run_state >&2; exit $code"
    if subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", out.parent], capture_output=True).returncode:
        pytest.skip("this machine lets us mount no small disk")
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr and "--resume" in done.stderr and "Traceback" not in done.stderr
    assert "00000001" in done.stderr.splitlines()[-1]


def copied(missed, tmp_path):
    shutil.copytree(missed[0], tmp_path / "run")
    return tmp_path / "run"


def damage(file, how):
    data = file.read_bytes()
    middle = len(data) // 2
    if how == "flipped":
        data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    elif how == "cut":
        data = data[: middle + 1]
    elif how == "torn":
        data = data[:middle] + b"\n" + data[middle + 2 :]
    elif how == "foreign":
        data = b"[1]\n"
    else:
        data = b"[" * 100_000 + b"\n"
    file.write_bytes(data)


LEFT = ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]


@pytest.mark.parametrize("stage", ["pretrain", "cold_start"])
@pytest.mark.parametrize("name", LEFT)
def test_flipped_byte_in_a_finished_checkpoint_is_seen_at_resume(stage, name, missed, recipe, tmp_path, capsys):
    out = copied(missed, tmp_path)
    file = out / "checkpoints" / stage / name
    damage(file, "flipped")
    capsys.readouterr()
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"error: {file} is not what stage `{stage}` has written" in error and "\nhint: " in error


@pytest.mark.parametrize("how", ["torn", "foreign", "deep"])
@pytest.mark.parametrize(
    "name",
    ["recipe.json", "seconds.json", "finished.json", "eval/pretrain.jsonl", "eval/cold_start.jsonl",
     "chains/cold_start.jsonl", "tokenizer/tokenizer.json"],
)  # fmt: skip
def test_damaged_file_of_a_run_is_named(name, how, missed, recipe, tmp_path, capsys):
    out = copied(missed, tmp_path)
    damage(out / name, how)
    capsys.readouterr()
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 2
    error = capsys.readouterr().err
    assert str(out / name) in error and "\nhint: " in error


def test_evaluation_that_no_finished_stage_vouches_for_is_read_with_care(missed, recipe, tmp_path, capsys):
    out = copied(missed, tmp_path)
    FinishedStages(out).forget("cold_start")
    damage(out / "eval" / "cold_start.jsonl", "torn")
    capsys.readouterr()
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 2
    assert f"{out / 'eval' / 'cold_start.jsonl'} is damaged: line " in capsys.readouterr().err


def test_deleted_leftover_of_the_last_stage_is_made_again(missed, recipe, tmp_path):
    out = copied(missed, tmp_path)
    shutil.rmtree(out / "checkpoints" / "cold_start")
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 1
    assert (out / "checkpoints" / "cold_start" / "model.safetensors").read_bytes() == (
        missed[0] / "checkpoints" / "cold_start" / "model.safetensors"
    ).read_bytes()


def test_folder_that_cannot_be_written_is_a_user_error(recipe, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    real = os.open

    def refuse(path, *arguments, **options):
        if str(path).startswith(str(out)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert main(["train", str(recipe), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: cannot write into the run folder {out}: Permission denied\nhint: "
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_that_ends_a_run_saves_it_and_says_how_to_resume(number, recipe, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "openqwq", "train", str(recipe), "--out", str(out)]
    command += ["--set", "stage.pretrain.tokens=4_000_000"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("pretrain 2/"):
            process.send_signal(number)
            process.send_signal(number if number != signal.SIGINT else 0)
            break
    said += process.stderr.readlines()
    assert process.wait(timeout=60) == 130, "".join(said)
    text = "".join(said)
    assert "saving stage `pretrain` after" in text or "the last checkpoint stands" in text
    assert f"continue with: openqwq train {recipe} --out {out}" in text and "--resume" in text
    assert "Traceback" not in text
    states = sorted((out / "run_state").iterdir())
    assert json.loads((states[-1] / "state.json").read_text())["step"] >= 1
