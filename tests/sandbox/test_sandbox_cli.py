"""`openqwq sandbox run`."""

import io
import json

import pytest

from openqwq.cli.main import main


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
