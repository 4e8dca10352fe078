"""The report of a synthetic run: whole, self-contained, escaped, and readable from a run that is not finished."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from eval_run_folders import FAMILIES, HOSTILE, STAGES, make_run_folder

from openqwq.errors import UserError
from openqwq.eval.intervals import Interval
from openqwq.eval.report import read_run_folder, write_report
from openqwq.eval.report.charts import curve_chart, format_tick, nice_ticks, stage_chart
from openqwq.eval.report.content import duration, examples, training_charts
from openqwq.eval.report.markdown import fence
from openqwq.log import append_jsonl

VOID = {"meta", "br", "link", "img", "hr"}


class Checker(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"stray </{tag}>"


@pytest.fixture
def page(run_folder):
    return write_report(run_folder)[0].read_text()


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(checker.tags)
    addresses = [value for name, value in checker.attributes if name in ("src", "href") and not value.startswith("#")]
    assert addresses == []
    assert "url(" not in page and "@import" not in page


def test_what_models_and_recipes_wrote_is_escaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_the_page_shows_every_family_stage_target_and_example(page, run_folder):
    for text in (*FAMILIES, *STAGES, "points", "torch", "2.13.0", "5 min 10 s", "ended rl_general after 12 steps"):
        assert text in page
    assert page.count("<article>") == 10
    assert len(examples(read_run_folder(run_folder), 10)) == 10
    assert "✗ no" in page and "✓ yes" in page
    assert page.count("<svg") == len(FAMILIES) + 2 + 2 * 5


def test_examples_come_from_every_family_in_turn_whatever_their_outcome(run_folder):
    shown = examples(read_run_folder(run_folder), 6)
    assert [e.family for e in shown] == [*FAMILIES, *list(FAMILIES)[:2]]
    assert [e.id for e in shown][:2] == ["chain_sum/held_out/0", "gcd/held_out/0"]
    assert {(e.before.stage, e.after.stage) for e in shown} == {("cold_start", "rl_general")}


def test_the_markdown_says_the_same_and_cannot_be_broken_out_of(run_folder):
    text = write_report(run_folder)[1].read_text()
    for family in FAMILIES:
        assert family.replace("_", "\\_") in text
    assert fence(HOSTILE).startswith("````\n")
    outside = re.sub(r"^(`{3,})[a-z]*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside.replace("\\<", "")


def test_an_unfinished_run_has_a_report_too(tmp_path):
    run = make_run_folder(tmp_path / "run", problems=3, stages=("pretrain",))
    page, _ = write_report(run)
    assert "1 of 4 stages so far" in page.read_text()


def test_a_folder_without_a_run_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(tmp_path)


def test_unmeasured_scores_are_dashes_not_numbers(run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    results["stages"][0]["families"]["gcd"]["strict"] = {"mean": None, "low": None, "high": None}
    (run_folder / "results.json").write_text(json.dumps(results))
    page = write_report(run_folder)[0].read_text()
    assert "<td>–" in page and "nan" not in page


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1.0]), (0, 43, [0, 20, 40, 60]), (0, 0, [0, 0.25, 0.5, 0.75, 1.0]), (2, 2, None)],
)
def test_ticks_are_round_and_enclose_the_data(low, high, ticks):
    found = nice_ticks(low, high)
    assert found[0] <= low and found[-1] >= high
    if ticks:
        assert found == pytest.approx(ticks)


def test_tick_labels_are_short():
    assert [format_tick(v) for v in (0, 0.25, 120.0, 1.5e-6, 250000.0)] == ["0", "0.25", "120", "1.5e-6", "2.5e5"]


def test_a_curve_of_nothing_is_no_chart_and_nan_points_are_left_out():
    assert curve_chart([(0, float("nan"))], label="x") == ""
    assert "nan" not in curve_chart([(0, 1.0), (1, float("nan")), (2, 3.0)], label="x")


def test_scores_are_drawn_at_their_height_on_a_scale_from_0_to_100():
    zero, full = Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0)
    svg = stage_chart(["a", "b"], [zero, full], [zero, full], label="f")
    heights = [float(y) for y in re.findall(r'<circle class="line" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert heights == [164.0, 12.0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.26, "4.3 s"), (42, "42 s"), (187, "3 min 07 s"), (7500, "2 h 05 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_sources_gate_and_held_out_pairs_have_their_curves_and_their_sentence(tmp_path):
    run = make_run_folder(tmp_path / "run", problems=3, stages=("cold_start", "rl_math_code"))
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["stage"]["reward_model"] = {"kind": "reward_model"}
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "metrics.jsonl").unlink()
    for step in range(4):
        sources = {"gcd": {"accuracy": 0.1 * step}, "<b>": {"accuracy": None if step < 2 else 0.5}}
        row = {"stage": "rl_math_code", "step": step, "sources": sources, "truncated": 0.02 * step, "unjudged": 0.0}
        append_jsonl(run / "metrics.jsonl", {**row, "mismatch_max": 0.0, "gate": {"math": 0.5} if step == 2 else None})
        held_out = {"held_out_pairs": 256, "held_out_accuracy": 0.8164, "held_out_calibration_error": 0.0599}
        last = held_out if step == 3 else dict.fromkeys(held_out)
        append_jsonl(run / "metrics.jsonl", {"stage": "reward_model", "step": step, "loss": 0.6, **last})
    charts = training_charts(read_run_folder(run))
    assert [(chart.title, chart.legend) for chart in charts["rl_math_code"]] == [
        ("Largest |rollout − policy| log-prob difference", ()),
        ("Share of rollouts that were cut off", ()),
        ("Accuracy on training problems, by source", ("gcd", "<b>")),
        ("Regression gate: held-out score, by kind", ("math",)),
    ]
    assert "<b> 0.5 at step 2" in unescape(charts["rl_math_code"][2].svg)
    assert [chart.title for chart in charts["reward_model"]] == ["Loss (nats per pair)"]
    page, text = (path.read_text() for path in write_report(run))
    for said in (page, text):
        assert "On 256 held-out pairs the chosen answer scores higher in 81.6%" in said and "6.0 points" in said
    assert "<li><svg" in page and "&lt;b&gt;</li>" in page
