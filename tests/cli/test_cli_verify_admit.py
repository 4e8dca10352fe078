"""`openqwq verify --admit`: acceptance by source and reason; composite parts in the summary of `openqwq verify`."""

import json

import pytest

from openqwq.cli.main import main

ROWS = [
    {"source": "a", "verifier": "math", "answer": "12", "prompt": "q"},
    {"source": "a", "verifier": "math", "answer": "12", "reference": "13"},
    {"source": "b", "verifier": "math", "answer": None},
    {"source": "b", "verifier": "format", "answer": None, "reference": "7"},
    {"source": "b", "verifier": "math"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join([*map(json.dumps, ROWS), "not json"]) + "\n")
    return path


def test_admission_is_told_by_source_and_reason(file, tmp_path, capsys):
    out = tmp_path / "decisions.jsonl"
    assert main(["verify", "--admit", str(file), "--output", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["problems"], summary["admitted"]) == (4, 1)
    assert summary["sources"] == {
        "a": {"admitted": 1, "the reference answer fails": 1},
        "b": {"no reference answer": 1, "the constant answer passes": 1},
    }
    assert [reject["line"] for reject in summary["rejects"]] == [5, 6]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["admitted"]) for row in rows] == [("1", True), ("2", False), ("3", False), ("4", False)]


def test_admission_for_people(file, capsys):
    assert main(["verify", "--admit", str(file)]) == 0
    text = capsys.readouterr().out
    assert "1 of 4 problems admitted" in text and "a: 1 of 2 (50.0%)" in text and "line 6 could not be read" in text


def test_admit_alone_or_name_and_file(file, capsys):
    assert main(["verify", "--admit", str(file), "math"]) == 2
    assert main(["verify"]) == 2
    assert main(["verify", "math"]) == 2
    assert main(["verify", "--admit", "no/such/file"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_summary_tells_the_parts_of_a_composite(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"answer": "3", "completion": c}) + "\n" for c in ("</think>\\boxed{3}", "3")))
    options = ["--option", 'weights={"math": 1}', "--option", 'gates=["format"]', "--json"]
    assert main(["verify", "composite", str(path), *options]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"math": 0.5, "format": 0.5}
