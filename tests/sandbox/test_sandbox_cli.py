"""`openqwq sandbox run`."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from openqwq.cli.doctor import check_jail, check_languages
from openqwq.cli.main import main
from openqwq.sandbox import languages
from openqwq.sandbox.spec import LANGUAGES


@pytest.fixture
def program(tmp_path, monkeypatch):
    def write(code):
        path = tmp_path / "program.py"
        path.write_text(code)
        return str(path)

    monkeypatch.setattr("sys.stdin", io.StringIO("7\n"))
    return write


def test_run_shows_the_output_and_how_the_program_ended(program, capsys):
    assert main(["sandbox", "run", program("print(int(input()) * 2)")]) == 0
    out, err = capsys.readouterr()
    assert out == "14\n"
    assert err.startswith("ok (")


def test_run_as_json_and_exit_code_of_a_failure(program, capsys):
    assert main(["sandbox", "run", program("while True: pass"), "--wall-s", "0.3", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "timeout"


def test_missing_file_is_a_user_error(capsys):
    assert main(["sandbox", "run", "no-such-file.py"]) == 2
    assert "no-such-file.py" in capsys.readouterr().err


def test_language_is_what_the_name_says_and_must_be_here(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", os.path.dirname(shutil.which("bwrap")))
    monkeypatch.setattr(languages, "_search", lambda jailed: ({}, dict.fromkeys(LANGUAGES, "not found")))
    path = tmp_path / "program.go"
    path.write_text("package main")
    assert main(["sandbox", "run", str(path)]) == 2
    assert "programs in go cannot be run here: not found" in capsys.readouterr().err
    assert main(["sandbox", "run", str(path), "--language", "python"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--queue", "-1"], "--queue is -1"),
        (["--host", "0.0.0.0", "--port", "0"], "there is no token"),
    ],
)
def test_serve_refuses_what_makes_no_sense(arguments, message, monkeypatch, capsys):
    pytest.importorskip("uvicorn", reason="the service needs fastapi and uvicorn")
    monkeypatch.delenv("OPENQWQ_SANDBOX_TOKEN", raising=False)
    assert main(["sandbox", "serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_doctor_says_what_runs_in_the_jail():
    assert check_jail().status in ("ok", "warn")
    assert check_languages().text.startswith("python: always; cpp: ")


def test_the_documents_example_does_what_it_says(capsys):
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    exec(compile(example, "sandbox.md", "exec"), {})
    assert capsys.readouterr().out == "42\n\npassed\n"
    commands = re.findall(r"^openqwq (.*)$", text, re.MULTILINE)
    assert [words.split()[:2] for words in commands] == [["sandbox", "run"], ["sandbox", "serve"], ["doctor"]]
