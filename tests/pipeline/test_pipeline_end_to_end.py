"""The one-minute recipe through every stage: unbroken, and killed at random moments and resumed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openqwq.log import read_jsonl

RECIPE = Path(__file__).parents[2] / "recipes" / "smoke.toml"
STAGES = ("pretrain", "cold_start", "rl_math_code", "reward_model", "rl_general")
KILLS = 2
TIMEOUT_S = 500


def start(out, *arguments):
    command = [sys.executable, "-m", "openqwq.cli.main", "train", str(RECIPE), "--out", str(out), *arguments]
    with open(f"{out}.log", "a") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)


def finish(process):
    stdout, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, stdout


def rows_in(out):
    file = out / "metrics.jsonl"
    return len(read_jsonl(file)) if file.exists() else 0


def kill_after(process, out, rows, delay_s):
    """SIGKILL once so many metrics rows are written and the delay is over; whether it was still running."""
    while process.poll() is None and rows_in(out) < rows:
        time.sleep(0.02)
    time.sleep(delay_s)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return running


def without_times(row):
    return {key: value for key, value in row.items() if not key.startswith("seconds")}


def weights_hash(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    code, stdout = finish(start(out))
    assert code == 0, Path(f"{out}.log").read_text()
    return out, stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory, unbroken):
    """A run of the same recipe that is killed a few times, anywhere, and resumed each time."""
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    out = tmp_path_factory.mktemp("killed") / "run"
    total = rows_in(unbroken[0])
    for rows in sorted(draw.sample(range(1, total), KILLS)):
        process = start(out, "--resume")
        assert kill_after(process, out, rows, draw.uniform(0, 0.3)) or process.returncode == 0, f"seed {seed}"
    code, stdout = finish(start(out, "--resume"))
    assert code == 0, f"seed {seed}\n" + Path(f"{out}.log").read_text()
    return out, stdout, seed


def test_the_run_folder_holds_what_the_contract_says(unbroken):
    out, stdout = unbroken
    results = json.loads((out / "results.json").read_text())
    evaluated = [stage["name"] for stage in results["stages"]]
    assert evaluated == [name for name in STAGES if name != "reward_model"]
    family = results["stages"][-1]["families"]["chain_sum"]
    assert (family["kind"], family["n"]) == ("math", 16)
    for which in ("strict", "format_free", "greedy"):
        assert 0 <= family[which]["low"] <= family[which]["mean"] <= family[which]["high"] <= 1
    assert results["stages"][0]["families"]["chain_sum"]["greedy"] is None
    assert set(results["seconds"]) == set(STAGES)
    for folder in (*(out / "checkpoints" / name for name in STAGES), out / "final"):
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            assert (folder / name).is_file(), folder / name
    for name in ("metrics.jsonl", "samples.jsonl", "recipe.json", "report.html", "report.md"):
        assert (out / name).stat().st_size > 0
    for shown in ("cold_start", "rl_general", "chain_sum", "final", "report.html"):
        assert shown in stdout


def test_every_step_shows_its_seconds_and_the_exact_mismatch(unbroken):
    steps = [
        row for row in read_jsonl(unbroken[0] / "metrics.jsonl") if row["stage"] == "rl_math_code" and "step" in row
    ]
    assert len(steps) == 4
    assert all({"seconds_generate", "seconds_verify", "seconds_train"} <= row.keys() for row in steps)
    mismatches = [row["mismatch_max"] for row in steps if row["mismatch_max"] is not None]
    assert mismatches and max(mismatches) < 1e-4


def test_a_killed_and_resumed_run_ends_with_the_same_weights(unbroken, killed):
    for folder in ("final", *(f"checkpoints/{name}" for name in STAGES)):
        assert weights_hash(killed[0] / folder) == weights_hash(unbroken[0] / folder), f"{folder}, seed {killed[2]}"


def test_a_killed_and_resumed_run_logs_the_same_rows(unbroken, killed):
    for name in ("metrics.jsonl", "samples.jsonl"):
        expected = [without_times(row) for row in read_jsonl(unbroken[0] / name)]
        assert [without_times(row) for row in read_jsonl(killed[0] / name)] == expected, f"{name}, seed {killed[2]}"


def test_a_killed_and_resumed_run_reports_the_same_results(unbroken, killed):
    one, other = (json.loads((out / "results.json").read_text()) for out in (unbroken[0], killed[0]))
    assert {**one, "seconds": {}} == {**other, "seconds": {}}
    assert unbroken[1].partition("checkpoint:")[0] == killed[1].partition("checkpoint:")[0]


def test_transformers_opens_the_result(unbroken):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(unbroken[0] / "final")
    tokenizer = transformers.AutoTokenizer.from_pretrained(unbroken[0] / "final")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 2 ="}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert model(**tokenizer(prompt, return_tensors="pt")).logits.shape[-1] == 512
