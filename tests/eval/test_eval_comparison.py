"""Runs compared: differences over the same problems, curves in one chart, targets, what differs in the recipes."""

import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest
from eval_run_folders import FAMILIES, make_run_folder

from openqwq.cli.main import main
from openqwq.errors import UserError
from openqwq.eval.intervals import UNKNOWN, independent_change, mean_interval
from openqwq.eval.report import write_comparison
from openqwq.eval.report.comparison import END, compared_stages, points, read_runs, recipe_rows, score_rows
from openqwq.log import append_jsonl, read_jsonl

VOID = {"meta", "br"}


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def answer(run, stage, family, right):
    """Rewrite a family's rows after a stage: the problems whose numbers are in `right` are correct, the others not."""
    file = run / "eval" / f"{stage}.jsonl"
    rows = read_jsonl(file)
    file.unlink()
    for row in rows:
        if row["family"] == family:
            status = "correct" if int(row["id"].split("/")[-1]) in right else "wrong"
            row["strict"] = {"status": status, "score": float(status == "correct"), "reason": ""}
        append_jsonl(file, row)


@pytest.fixture
def runs(tmp_path):
    """Two runs of 8 problems a family: the second has no stage 2, another seed, and other answers to gcd."""
    first = make_run_folder(tmp_path / "first", problems=8, stages=("cold_start", "rl_math_code", "rl_general"))
    second = make_run_folder(tmp_path / "second", problems=8, stages=("cold_start", "rl_math_code"))
    for run in (first, second):
        answer(run, "cold_start", "gcd", {0, 1})
    answer(first, "rl_math_code", "gcd", {0, 1, 2, 3})
    answer(second, "rl_math_code", "gcd", {0, 1, 2, 3, 4, 5})

    def differ(recipe):
        recipe["seed"], recipe["name"] = 7, "other"
        recipe["stage"]["rl_math_code"]["reward"] = "random"
        del recipe["stage"]["rl_general"]

    edit(second / "recipe.json", differ)
    edit(second / "results.json", lambda results: results["targets"].pop())
    return [first, second]


def row_of(runs, what, stage):
    rows = [row for own in score_rows(read_runs(runs)).values() for row in own]
    return next(row for row in rows if row.what == what and row.stage == stage)


def test_scores_change_and_difference_are_those_of_the_same_problems(runs):
    first, second = row_of(runs, "gcd", "rl_math_code").cells
    assert (first.score.mean, second.score.mean) == (0.5, 0.75)
    assert first.change.mean == 0.25 and math.isnan(first.difference.mean)
    assert second.is_paired and second.difference.mean == 0.25
    # two of eight differences are 1: their variance is 2 * 6 / 8 / 7, over 8 problems
    half = 1.959964 * math.sqrt((2 * (6 / 8) ** 2 + 6 * (2 / 8) ** 2) / 7 / 8)
    assert (second.difference.low, second.difference.high) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)
    start = row_of(runs, "gcd", "cold_start").cells[1]
    assert math.isnan(start.change.mean) and start.difference.mean == 0


def test_other_problems_are_compared_as_independent_ones(runs):
    file = runs[1] / "eval" / "rl_math_code.jsonl"
    rows = read_jsonl(file)
    file.unlink()
    for row in rows:
        append_jsonl(file, {**row, "prompt": "another text under the same id"})
    cell = row_of(runs, "gcd", "rl_math_code").cells[1]
    assert not cell.is_paired and cell.difference.mean == 0.25
    half = 1.959964 * math.sqrt(8 * 0.25 / 7 / 8 + (6 * 0.0625 + 2 * 0.5625) / 7 / 8)
    assert cell.difference.high == pytest.approx(0.25 + half, abs=1e-6)


def test_runs_that_end_with_other_stages_are_also_compared_at_their_last_evaluation(runs):
    assert compared_stages(read_runs(runs)) == ["cold_start", "rl_math_code", "rl_general", END]
    first, second = row_of(runs, "gcd", END).cells
    assert first.score == row_of(runs, "gcd", "rl_general").cells[0].score
    assert second.score == row_of(runs, "gcd", "rl_math_code").cells[1].score
    assert row_of(runs, "gcd", "rl_general").cells[1].score == UNKNOWN
    assert compared_stages(read_runs(runs[:1])) == ["cold_start", "rl_math_code", "rl_general"]


def test_only_what_differs_in_the_recipes_is_listed(runs):
    shutil.copy(runs[0] / "results.json", runs[1] / "results.json")
    edit(runs[1] / "results.json", lambda results: results["versions"].update(torch="2.12.0"))
    assert recipe_rows(read_runs(runs)) == [
        ("seed", ["3", "7"]),
        ("stage.rl_math_code.reward", ["–", "random"]),
        ("stage.rl_general", ["a table, kind rl", "–"]),
        ("versions.torch", ["2.13.0", "2.12.0"]),
    ]


def test_lists_of_tables_are_compared_by_number_and_plain_lists_as_they_are(runs):
    for run, targets, after in ((runs[0], [{"what": "up", "min": 1}, {"what": "keeps"}], ["rl"]), (runs[1], [], [])):
        edit(run / "recipe.json", lambda r, t=targets, a=after: r.update(target=t, eval={"after": a}))
    rows = dict(recipe_rows(read_runs(runs)))
    assert rows["target.0"] == ["up", "–"] and rows["target.1"] == ["keeps", "–"]
    assert rows["eval.after"] == ['["rl"]', "[]"]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_has_all_runs_in_every_chart(runs):
    edit(runs[1] / "recipe.json", lambda recipe: recipe.update(name="<script>alert(1)</script>"))
    page, text = (path.read_text() for path in write_comparison(runs))
    assert sorted(path.name for path in runs[0].parent.glob("comparison.*")) == ["comparison.html", "comparison.md"]
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and not {"script", "img", "link"} & set(tags.seen)
    section = page[page.index('id="curves"') : page.index('id="recipes"')]
    charts = re.findall(r"<figure>.*?</figure>", section[: section.index("<h3>rl_general")], re.DOTALL)
    assert len(charts) == 1 + 5  # the loss of the cold start, five metrics of the first RL stage
    assert all(chart.count('class="series s0"') == chart.count('class="series s1"') == 1 for chart in charts)
    for part in (*FAMILIES, "✓ met", "✗ missed", "since start +25.0", "vs first +25.0", "ended rl_general after 12"):
        assert part in page
    assert "| gcd | rl\\_math\\_code | 50.0" in text and "vs first +25.0" in text


def test_labels_are_folders_or_paths_where_folders_are_alike(tmp_path, runs):
    assert [run.label for run in read_runs(runs)] == ["first", "second"]
    other = shutil.copytree(runs[0], tmp_path / "elsewhere" / "first")
    assert [run.label for run in read_runs([runs[0], other])] == [str(runs[0]), str(other)]


def test_what_is_no_run_is_named(tmp_path, runs, capsys):
    with pytest.raises(UserError, match="is given twice"):
        read_runs([runs[0], runs[1], runs[0].parent / "x" / ".." / "first"])
    (tmp_path / "file").touch()
    cases = {
        tmp_path / "nowhere": "there is no such folder",
        tmp_path / "file": "it is a file",
        tmp_path: "it has no results.json",
    }
    for path, why in cases.items():
        assert main(["report", str(runs[0]), str(path)]) == 2
        assert re.search(f"error: {path} is not the folder of a run: {why}.*hint: ", capsys.readouterr().err, re.DOTALL)
    (runs[1] / "recipe.json").write_text("[]")
    assert main(["report", *map(str, runs)]) == 2
    assert "its recipe.json has no `stage`" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "text"), [("metrics.jsonl", "{\n"), ("eval/cold_start.jsonl", '{"a": 1}\n')])
def test_a_broken_file_of_a_run_is_named(runs, file, text, capsys):
    (runs[0] / file).write_text(text)
    assert main(["report", str(runs[0])]) == 2
    assert file in capsys.readouterr().err


def test_one_run_is_reported_into_its_folder_or_where_it_is_asked_for(tmp_path, runs, capsys):
    assert main(["report", str(runs[0])]) == 0
    assert capsys.readouterr().out.split() == [str(runs[0] / "report.html"), str(runs[0] / "report.md")]
    (tmp_path / "file").write_text("")
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "hint: name another one with `--out`" in capsys.readouterr().err
    out = tmp_path / "new" / "out"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["comparison.html", "comparison.md"]


def test_the_mean_of_families_has_the_interval_of_independent_means():
    families = {"a": {"1": 1.0, "2": 0.0}, "b": {"1": 1.0, "2": 1.0, "3": 1.0}, "c": {}}
    found = mean_interval(families)
    half = 1.959964 * math.sqrt(0.5 / 2) / 2  # a's variance of 0.5 over two problems, b's is 0
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, 0.75 - half, 1.0), abs=1e-6)
    assert mean_interval({}) is UNKNOWN and mean_interval({"c": {}}) is UNKNOWN
    assert independent_change({"a": {"1": 1.0}}, {"b": {"1": 1.0}}) is UNKNOWN


def test_changes_are_written_in_points():
    assert points(UNKNOWN) == ""
    assert points(mean_interval({"a": {"1": 0.5, "2": 0.5}})) == "+50.0 (+50.0 to +50.0)"
