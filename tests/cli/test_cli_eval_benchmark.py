"""`openqwq eval --benchmark`: the list, runs against a server and a model, exit codes, benchmarks of one's own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openqwq.cli.main import main
from openqwq.log import read_jsonl

TINY = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
QUESTIONS = {"What is 1+1?": "2", "What is 2+2?": "4", "What is 3+3?": "6", "What is 4+4?": "8"}
OWN = """
name = "sums"
data = "sums.jsonl"
verifier = "math"
prompt = "{question}\\nPut the answer in \\\\boxed{}."
[columns]
answer = "result"
[protocol]
max_tokens = 32
samples = 3
"""


@pytest.fixture
def own(tmp_path):
    rows = [{"question": question, "result": answer} for question, answer in QUESTIONS.items()]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.toml").write_text(OWN)
    return tmp_path / "sums.toml"


def reply(body, headers):
    """Right, but for every sum of fours."""
    question = body["messages"][-1]["content"].partition("\n")[0]
    answer = "9" if "4" in question else QUESTIONS[question]
    message = {"content": f"So.\n</think>\n\n\\boxed{{{answer}}}"}
    return 200, {}, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}


def run(url, own, out, *more):
    return main(
        ["eval", url, "--served-model", "m", "--benchmark", str(own), "--out", str(out), "--retries", "0", *more]
    )


def test_list_shows_every_benchmark_with_its_protocols(capsys):
    assert main(["eval", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line.split() for line in lines if line.startswith("aime24")]
    assert line == ["aime24", "qwq", "30", "64", "32768", "0.6", "0.95", "40", "math"]
    assert sum("--data FILE" in line for line in lines) == 7


def test_own_benchmark_runs_against_a_server(json_server, own, tmp_path, capsys):
    with json_server(reply) as (url, log):
        assert run(url, own, tmp_path / "out") == 0
    assert len(log) == 12
    sent = log[0][1]
    assert sent["messages"] == [{"role": "user", "content": "What is 1+1?\nPut the answer in \\boxed{}."}]
    assert {key: sent[key] for key in ("model", "temperature", "top_p", "top_k", "max_tokens")} == {
        "model": "m",
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 40,
        "max_tokens": 32,
    }
    shown = capsys.readouterr().out
    assert "sums, protocol own: 4 problems, 3 samples each" in shown
    assert "score            75.0" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["score"], results["pass_at"], results["protocol"]) == (0.75, {"2": 0.75}, "own")


@pytest.mark.parametrize("change", [("--samples", "2"), ("--temperature", "1"), ("--problems", "3")])
def test_overridden_protocol_is_called_custom_in_every_output(change, json_server, own, tmp_path, capsys):
    with json_server(reply) as (url, _):
        assert run(url, own, tmp_path / "out", *change) == 0
    assert "protocol custom" in capsys.readouterr().out
    for name in ("plan.json", "results.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["protocol"] == "custom"
    assert "custom" in (tmp_path / "out" / "report.md").read_text()


def test_option_that_repeats_the_protocols_value_overrides_nothing(json_server, own, tmp_path, capsys):
    with json_server(reply) as (url, _):
        assert run(url, own, tmp_path / "out", "--samples", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == "own"


@pytest.mark.parametrize(("expected", "code", "verdict"), [(75, 0, "consistent"), (95, 1, "not consistent")])
def test_expected_score_makes_it_a_check(expected, code, verdict, json_server, own, tmp_path, capsys):
    """Twelve samples are sure to within some 10 points, so the margin is wide."""
    options = ("--expect", str(expected), "--margin", "35" if code == 0 else "1", "--samples", "60")
    with json_server(reply) as (url, _):
        assert run(url, own, tmp_path / "out", *options) == code
    assert f"{verdict} with {expected} (taken as exact)" in capsys.readouterr().out


def test_run_with_holes_exits_1_and_shows_bounds_until_it_is_continued(json_server, own, tmp_path, capsys):
    def sick(body, headers):
        return (503, {}, b"") if "4" in body["messages"][-1]["content"] else reply(body, headers)

    with json_server(sick) as (url, _):
        assert run(url, own, tmp_path / "out") == 1
    assert "between 75.0 and 100.0 (9 of 12 samples judged)" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["score"], results["sampled"]) == (None, 9)
    assert (results["low"], results["high"]) == (0.75, 1.0)
    with json_server(reply) as (elsewhere, log):
        assert run(elsewhere, own, tmp_path / "out") == 0
    assert len(log) == 3
    assert "score            75.0" in capsys.readouterr().out


def test_killed_process_continues_to_the_same_folder(json_server, own, tmp_path):
    """kill -9 in the middle, several times; then the folder equals that of a run in one go."""

    def slow(body, headers):
        time.sleep(0.02)
        return reply(body, headers)

    command = [sys.executable, "-m", "openqwq.cli.main", "eval"]
    with json_server(slow) as (url, _):
        options = [url, "--served-model", "m", "--benchmark", str(own), "--samples", "40", "--workers", "2", "--out"]
        for wanted in (1, 40, 90):
            child = subprocess.Popen([*command, *options, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
            while len(kept(tmp_path / "killed")) < wanted:
                assert child.poll() is None
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert len(kept(tmp_path / "killed")) < 160
        assert main(["eval", *options, str(tmp_path / "killed")]) == 0
        assert main(["eval", *options, str(tmp_path / "whole")]) == 0
    for name in ("results.json", "report.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ours, theirs = (sorted((tmp_path / n / "samples.jsonl").read_text().splitlines()) for n in ("killed", "whole"))
    assert ours == theirs


def kept(folder):
    return read_jsonl(folder / "samples.jsonl") if (folder / "samples.jsonl").exists() else []


def test_local_model_runs_with_the_same_command(own, tmp_path, capsys):
    command = ["eval", str(TINY), "--benchmark", str(own), "--out", str(tmp_path / "out"), "--samples", "2"]
    assert main(command) == 0
    first = (tmp_path / "out" / "samples.jsonl").read_text()
    assert len(first.splitlines()) == 8
    assert main(command) == 0
    assert (tmp_path / "out" / "samples.jsonl").read_text() == first
    assert "4 problems, 2 samples each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no model is named"),
        (("m",), "no problems are named"),
        (("m", "--benchmark", "aime42"), "no benchmark `aime42`"),
        (("m", "--benchmark", "aime24", "--data", "nowhere.jsonl"), "no file nowhere.jsonl"),
        (("m", "--benchmark", "aime24", "--recipe", "tiny"), "do not go together"),
        (("m", "--data", "x.jsonl", "--expect", "3"), "are for --benchmark"),
        (("m", "--benchmark", "aime24", "--prompt-suffix", "Go."), "are not for --benchmark"),
        (("http://localhost:1", "--benchmark", "aime24"), "its model is not named"),
        (("m", "--benchmark", "aime24", "--samples", "0"), "`--samples` is 0"),
        (("m", "--benchmark", "aime24", "--expect", "101"), "`--expect` is 101"),
    ],
)
def test_mistake_is_one_clear_error(options, message, capsys):
    assert main(["eval", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name =", "nam ="), "unknown key `nam`"),
        (('verifier = "math"', 'verifier = "maths"'), "maths"),
        (("samples = 3", "samples = true"), "`samples` is True"),
        (("samples = 3", "sample = 3"), "unknown key `sample`"),
        (("{question}", "{query}"), "`{query}`"),
        (('answer = "result"', 'answer = "gold"'), "lacks `gold`"),
        (("sums.jsonl", "gone.jsonl"), "gone.jsonl"),
        (("[columns]", "[columns"), "is no TOML"),
    ],
)
def test_mistake_in_an_own_benchmark_names_the_field(change, message, own, tmp_path, capsys):
    own.write_text(OWN.replace(*change))
    assert main(["eval", "m", "--benchmark", str(own), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
