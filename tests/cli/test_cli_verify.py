"""`openqwq verify`: rows in, verdicts out, resumable, with rejects and a summary."""

import json

import pytest

from openqwq.cli.main import main
from openqwq.log import read_jsonl
from openqwq.types import Message, Problem

PROBLEM = Problem(id="a", source="s", kind="math", messages=(Message("user", "1+1"),), verifier="math", answer="2")
LINES = [
    json.dumps({"problem": PROBLEM.to_dict(), "completion": "</think>\\boxed{2}"}),
    json.dumps({"answer": "3", "completion": "</think>\\boxed{4}"}),
    json.dumps({"answer": None, "completion": "</think>\\boxed{4}"}),
    "not json",
    "",
    json.dumps({"answer": "3"}),
    json.dumps({"answer": "3", "completion": 5}),
    json.dumps({"answer": "3", "completion": "\ud800"}),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    return path


def run_json(capsys, *arguments):
    assert main(["verify", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_summary_counts_statuses_reasons_and_rejects(file, capsys):
    summary = run_json(capsys, "math", file)
    assert [summary[k] for k in ("rows", "correct", "wrong", "unjudged")] == [4, 1, 2, 1]
    assert summary["mean_score"] == pytest.approx(1 / 3)
    assert summary["reasons"]["wrong: thinking not closed"] == 1
    assert [reject["line"] for reject in summary["rejects"]] == [4, 6, 7]
    assert summary["rejects"][1]["why"] == "lacks `completion`"


def test_output_holds_one_verdict_a_row_in_order(file, tmp_path, capsys):
    run_json(capsys, "math", file, "--output", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["line"], r["status"]) for r in rows] == [(1, "correct"), (2, "wrong"), (3, "unjudged"), (8, "wrong")]
    assert (rows[0]["id"], rows[0]["verifier"], rows[0]["extracted"]) == ("a", "math", "2")


def test_stopped_run_goes_on_and_ends_with_the_same_file(file, tmp_path, capsys):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run_json(capsys, "math", file, "--output", whole)
    text = whole.read_text()
    cut.write_text(text[: text.index("\n") + 20])
    summary = run_json(capsys, "math", file, "--output", cut)
    assert (summary["skipped"], summary["rows"]) == (1, 4)
    assert cut.read_text() == text


def test_output_of_another_input_or_verifier_is_refused(file, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    run_json(capsys, "math", file, "--output", out)
    assert main(["verify", "format", str(file), "--output", str(out)]) == 2
    file.write_text(LINES[1] + "\n")
    assert main(["verify", "math", str(file), "--output", str(out)]) == 2
    assert "another input" in capsys.readouterr().err


def test_options_are_typed(file, capsys):
    file.write_text(json.dumps({"answer": "3", "completion": "it is 3"}) + "\n")
    assert run_json(capsys, "math", file, "--option", "format_free=true")["correct"] == 1
    assert main(["verify", "math", str(file), "--option", "format_free=3"]) == 2
    assert main(["verify", "math", str(file), "--option", "nonsense"]) == 2


def test_missing_file_and_unknown_verifier_are_user_errors(file, capsys):
    assert main(["verify", "math", "no/such/file"]) == 2
    assert main(["verify", "mahts", str(file)]) == 2
    assert "did you mean `math`" in capsys.readouterr().err


def test_summary_for_people(file, capsys):
    assert main(["verify", "math", str(file)]) == 0
    out = capsys.readouterr().out
    assert "math (version 3): 4 rows, mean score 0.3333" in out
    assert "line 4: is no JSON" in out


def test_a_row_says_that_its_prompt_opened_no_thinking(tmp_path, capsys):
    rows = [{"answer": "56", "completion": "\\boxed{56}", "thinking_opened": opened} for opened in (False, True, "no")]
    rows.append({"answer": "56", "completion": "\\boxed{56}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = run_json(capsys, "math", tmp_path / "rows.jsonl", "--output", tmp_path / "out.jsonl")
    assert [row["status"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["correct", "wrong", "wrong"]
    assert summary["reasons"] == {"wrong: thinking not closed": 2}
    assert "`thinking_opened` is not true or false" in summary["rejects"][0]["why"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1, 2]", "is a list, not an object"),
        ('"text"', "is a text, not an object"),
        ("{", "is no JSON (Expecting property name enclosed in double quotes, column"),
        ('{"answer": "3"}', "lacks `completion`"),
        ('{"completion": "3"}', "lacks `answer`"),
        ('{"answer": "3", "completion": ["3"]}', "`completion` is a list, not a text"),
        ('{"problem": {"id": "a"}, "completion": "3"}', "lacks `source`"),
        (
            '{"answer": "3", "completion": "3", "thinking_opened": "no"}',
            "`thinking_opened` is not true or false",
        ),
    ],
)
def test_a_line_that_is_no_row_is_named_in_plain_words(file, capsys, line, why):
    file.write_text(LINES[0] + "\n" + line + "\n")
    [reject] = run_json(capsys, "math", file)["rejects"]
    assert reject["line"] == 2 and reject["why"].startswith(why)
    assert main(["verify", "math", str(file), "--strict"]) == 1
    assert main(["verify", "math", str(file)]) == 0


def test_a_file_of_utf_16_is_named_as_such(file, capsys):
    file.write_bytes((LINES[1] + "\n").encode("utf-16"))
    assert main(["verify", "math", str(file)]) == 1
    assert "line 1: is not UTF-8 text" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "not json\n", json.dumps({"answer": None, "completion": "x"}) + "\n"])
def test_exit_code_is_1_where_nothing_was_judged(file, capsys, text):
    file.write_text(text)
    assert main(["verify", "math", str(file)]) == 1
    assert "nothing was judged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["format", "length", "repetition", "language"])
def test_verifiers_that_look_at_the_text_alone_need_no_answer(file, capsys, name):
    file.write_text(json.dumps({"completion": "so it is\n</think>\n\nThe answer is here."}) + "\n")
    assert run_json(capsys, name, file)["rows"] == 1


def test_a_function_of_ones_own_judges_a_file_and_sees_its_columns(file, tmp_path, capsys, monkeypatch):
    (tmp_path / "rewards.py").write_text(
        "def score(problem, completion, level):\n"
        "    if level > 9:\n"
        "        raise ValueError('too hard')\n"
        "    return {'level': level, 'prompt': float(problem.prompt == 'how?')}\n"
    )
    rows = [{"completion": "a", "level": 1, "prompt": "how?"}, {"completion": "a", "level": 10}, {"completion": "a"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    summary = run_json(capsys, "rewards.py:score", file, "--output", tmp_path / "out.jsonl")
    assert (summary["verifier"], summary["correct"], summary["unjudged"]) == ("rewards.py:score", 1, 2)
    assert summary["mean_reward"] == 2.0 and summary["parts"] == {"level": 1.0, "prompt": 1.0}
    assert "unjudged: score raised ValueError: too hard (rewards.py, line 3)" in summary["reasons"]
    verdicts = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert verdicts[0]["reward"] == 2.0 and "needs `level`" in verdicts[2]["reason"]
    assert main(["verify", "rewards.py:score", str(file), "--strict"]) == 1
