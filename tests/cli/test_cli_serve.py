"""`openqwq serve`: what it refuses before any weights are loaded."""

import os
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

sys.path.insert(0, str(Path(__file__).parents[1] / "eval"))

from eval_run_folders import make_run_folder

from openqwq.cli import _experiment, main, serve

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"


def settings(*options):
    import argparse

    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return serve._settings(parser.parse_args([str(BASE), *options]))


def test_other_machines_are_let_in_with_a_key_only(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENQWQ_API_KEY", raising=False)
    assert main.main(["serve", str(BASE), "--host", "0.0.0.0"]) == 2
    assert "lets other machines in, but no key is set" in capsys.readouterr().err
    assert settings("--host", "0.0.0.0", "--api-key", "k").allowed_hosts == ()
    assert "localhost" in settings().allowed_hosts


def test_keys_come_from_options_file_and_environment(monkeypatch, tmp_path):
    file = tmp_path / "keys"
    file.write_text("three\n\n one \n")
    monkeypatch.setenv("OPENQWQ_API_KEY", "four,five")
    found = settings("--api-key", "one", "--api-key", "two", "--api-key-file", str(file)).api_keys
    assert found == ("one", "two", "four", "five", "three")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is neither a model folder"),
        ([str(BASE), "--compare", "a", "b"], "`--compare` needs a run folder"),
        ([str(BASE), "--api-key-file", "gone"], "cannot read the keys"),
        ([str(BASE), "--host", "203.0.113.7", "--api-key", "k"], "cannot listen on 203.0.113.7"),
    ],
)
def test_mistakes_are_user_errors(arguments, message, capsys):
    assert main.main(["serve", "--port", "0", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_report_is_made_again_only_when_the_runs_files_changed(tmp_path):
    run = make_run_folder(tmp_path)
    report = _experiment.ReportPage(run)
    first = report.text()
    assert first.startswith("<!doctype html>") and report.text() is first
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    second = report.text()
    assert second is not first
    (run / "report.html").write_text("the run's own")
    assert report.text() == "the run's own"
    (run / "results.json").touch()
    os.utime(run / "results.json", ns=(time.time_ns() + 10**9,) * 2)
    assert report.text().startswith("<!doctype html>")


def test_a_run_has_its_checkpoints_by_name(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "checkpoints" / "cold_start").mkdir(parents=True)
    (tmp_path / "checkpoints" / "cold_start" / "config.json").write_text("{}")
    assert serve._checkpoint(tmp_path, "cold_start") == tmp_path / "checkpoints" / "cold_start"
    assert serve._newest(tmp_path) == tmp_path / "checkpoints" / "cold_start"
    assert main.main(["serve", str(tmp_path), "--port", "0", "--compare", "cold_start", "warm"]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {tmp_path} has no checkpoint `warm`\nhint: there are: cold_start\n"
    )
