"""The report's behaviours and phases: counted rates, examples around their match, seconds by phase."""

import json

import pytest
from conftest import HOSTILE, make_run_folder

from openqwq.eval.report import read_run_folder, write_report
from openqwq.eval.report.behaviours import CONTEXT, LONGEST_MATCH, behaviour_pages, excerpt
from openqwq.eval.report.content import near_path, rate, short_time, summary
from openqwq.eval.report.phases import stage_phases
from openqwq.eval.report.series_charts import Series, phase_chart, series_chart, step_chart
from openqwq.log import append_jsonl, read_jsonl

STEPS = 20


def sample(step, text, verdict="correct", stage="rl_math_code"):
    reason = "" if verdict == "correct" else HOSTILE
    row = {"stage": stage, "step": step, "source": "gcd", "prompt": f"? {HOSTILE}", "text": text, "tokens": 9}
    return {**row, "verdict": verdict, "score": float(verdict == "correct"), "reason": reason}


@pytest.fixture
def folder(tmp_path):
    """A run with 20 steps of RL: backtracking rises by 5 percent a step, one rollout in a hundred is paid a hack."""
    run = make_run_folder(tmp_path / "run", problems=4, stages=("cold_start", "rl_math_code"))
    (run / "metrics.jsonl").unlink()
    for step in range(STEPS):
        shares = {"backtracking": 0.05 * step, "hack_canary": 0.02, "paid_hack_canary": 0.01, "loops": 0.0}
        seconds = {"seconds_generate": 2.0, "seconds_verify": 0.5, "seconds_train": 1.0, "seconds_idle": 0.5}
        row = {"stage": "rl_math_code", "step": step, "behaviours": shares, **seconds, "seconds_gate": 1e-6}
        append_jsonl(run / "metrics.jsonl", row)
        for phase, start, length in (("train", 2.75, 1.0), ("generate", 0.0, 2.0), ("verify", 2.0, 0.5)):
            times = {"start": 1e9 + 10 * step + start, "seconds": length}
            append_jsonl(run / "timeline.jsonl", {"stage": "rl_math_code", "step": step, "phase": phase, **times})
    for step in range(9):
        text = f"{step}. Wait, {HOSTILE}</think>{step}"
        append_jsonl(run / "samples.jsonl", sample(step, text, "correct" if step % 2 else "wrong"))
    return run


def page_of(folder, name):
    return next(page for page in behaviour_pages(read_run_folder(folder)) if page.name == name)


def test_rates_are_those_of_the_first_and_the_last_tenth_of_the_steps(folder):
    [(stage, first, last)] = page_of(folder, "backtracking").shares
    assert stage == "rl_math_code"
    assert (first, last) == pytest.approx((2.5, 92.5))  # steps 0, 1 and 18, 19 at 5 percent a step


def test_held_out_rates_are_counted_with_how_many_were_correct(folder):
    rows = [json.loads(line) for line in (folder / "eval" / "cold_start.jsonl").read_text().splitlines()]
    (folder / "eval" / "cold_start.jsonl").unlink()
    statuses = ["correct", "wrong", "wrong", "unjudged", "correct", "correct"]
    for i, (row, status) in enumerate(zip(rows[:6], statuses, strict=True)):
        text = "Hmm. 3</think>3" if i < 4 else "3</think>3"
        mark = {"status": status, "score": float(status == "correct"), "reason": ""}
        append_jsonl(folder / "eval" / "cold_start.jsonl", {**row, "text": text, "strict": mark})
    append_jsonl(folder / "eval" / "cold_start.jsonl", {**rows[6], "decoding": "greedy", "text": "Hmm."})
    held = page_of(folder, "backtracking").held_out[0]
    assert (held.stage, held.shown, held.of) == ("cold_start", 4, 6)
    assert held.correct_with == pytest.approx(100 / 3) and held.correct_without == 100


def test_examples_are_the_first_the_middle_and_the_last_logged_ones_whatever_their_verdict(folder):
    examples = page_of(folder, "backtracking").examples
    assert [example.where for example in examples] == [f"rl_math_code, step {i}" for i in (0, 4, 8)]
    assert [example.mark.status for example in examples] == ["wrong"] * 3
    assert ("Wait", True) in examples[0].pieces


def test_without_a_logged_one_examples_are_held_out_completions(folder):
    [example, *_] = page_of(folder, "no_thinking").examples or [None]
    assert example is None
    rows = read_jsonl(folder / "eval" / "cold_start.jsonl")
    append_jsonl(folder / "eval" / "cold_start.jsonl", {**rows[0], "text": "</think>3"})
    [example] = page_of(folder, "no_thinking").examples
    assert example.where == "held out, after cold_start" and example.pieces == (("</think>", True), ("3", False))


def test_an_excerpt_is_cut_around_its_first_match_and_marks_those_within():
    text = "a" * 300 + "Wait" + "b" * 100 + "Hmm" + "c" * 300 + "Wait"
    pieces = excerpt(text, [(300, 304), (404, 407), (707, 711)])
    assert pieces == (
        ("…", False),
        ("a" * CONTEXT, False),
        ("Wait", True),
        ("b" * 100, False),
        ("Hmm", True),
        ("c" * (CONTEXT - 103), False),
        ("…", False),
    )
    long = excerpt("x" * 2000, [(0, 2000)])
    assert long == (("x" * (LONGEST_MATCH + CONTEXT), True), ("…", False))
    assert excerpt("Wait", [(0, 4)]) == (("Wait", True),)


def test_the_page_marks_matches_and_escapes_what_surrounds_them(folder):
    page, text = (path.read_text() for path in write_report(folder))
    assert "<mark>Wait</mark>, &lt;script&gt;" in page and "<script" not in page
    assert "⟦Wait⟧" in text
    assert "Never seen in this run: Self-verification" in page and "dashed: paid" in page
    assert "2.5 → 92" in page and "2.5 → 92" in text


def test_phases_are_shares_of_the_steps_and_gaps_in_one_step_are_idle(folder):
    [stage] = stage_phases(read_run_folder(folder))
    assert [(s.phase, s.a_step, s.percent) for s in stage.shares] == [
        ("generate", 2.0, pytest.approx(50, rel=1e-4)),
        ("verify", 0.5, pytest.approx(12.5, rel=1e-4)),
        ("train", 1.0, pytest.approx(25, rel=1e-4)),
        ("idle", 0.5, pytest.approx(12.5, rel=1e-4)),
    ]
    assert stage.step_svg.count("<rect") == 4  # three phases and the gap before training
    assert "3.75 seconds" in stage.step_svg


def test_sampling_beside_the_training_is_shown_but_no_part_of_the_step(folder):
    rows = read_jsonl(folder / "metrics.jsonl")
    (folder / "metrics.jsonl").unlink()
    for row in rows:
        append_jsonl(folder / "metrics.jsonl", {**row, "seconds_wait": 0.5})
    [stage] = stage_phases(read_run_folder(folder))
    shares = {share.phase: share.percent for share in stage.shares}
    assert shares == {
        "generate": None,
        "verify": None,
        "wait": pytest.approx(25, rel=1e-4),
        "train": pytest.approx(50, rel=1e-4),
        "idle": pytest.approx(25, rel=1e-4),
    }
    assert "p-generate" not in stage.steps_svg and "p-wait" in stage.steps_svg
    page, text = (path.read_text() for path in write_report(folder))
    assert "generate beside, 2 s a step" in page and "| generate | 2 s | beside |" in text


def test_a_run_without_rl_has_neither_behaviours_in_training_nor_phases(tmp_path):
    run = read_run_folder(make_run_folder(tmp_path / "run", problems=2, stages=("pretrain",)))
    assert stage_phases(run) == []
    assert all(page.svg == "" and page.shares == () for page in behaviour_pages(run))


def test_curves_share_their_axes_and_a_single_point_is_seen():
    svg = series_chart([Series("a", [(0, 0.0), (10, 1.0)]), Series("b", [(5, 0.5)], 1)], label="x", smooth=False)
    assert '<path class="series s0" d="M44.0 164.0 L308.0 12.0"/>' in svg
    assert '<circle class="series s1" cx="176.0" cy="88.0" r="3"/>' in svg
    assert series_chart([Series("a", [(0, float("nan"))])], label="x") == ""


def test_phases_are_stacked_from_the_bottom_in_their_order():
    svg = phase_chart([{"generate": 3.0, "train": 1.0}], label="x")
    assert '<rect class="p-generate" x="44.0" y="50.00" width="263.60" height="114.00"/>' in svg
    assert '<rect class="p-train" x="44.0" y="12.00" width="263.60" height="38.00"/>' in svg
    assert phase_chart([], label="x") == step_chart([], label="x") == ""


def test_many_steps_are_averaged_into_few_columns():
    assert phase_chart([{"generate": float(i % 2)} for i in range(900)], label="x").count("<rect") == 90


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.034, "0.03"), (0.4, "0.4"), (4.44, "4.4"), (31.2, "31")])
def test_rates_tell_a_rare_thing_from_nothing(value, text):
    assert rate(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(1.2749, "1.27 s"), (0.0471, "47 ms"), (0.00038, "0.38 ms")])
def test_parts_of_a_step_read_well(seconds, text):
    assert short_time(seconds) == text


def test_the_first_line_names_no_absolute_folder(folder, tmp_path, monkeypatch):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["model"] = {"path": str(tmp_path / "recipes" / "base" / "tiny")}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert "from recipes/base/tiny, seed 3" in summary(read_run_folder(folder))
    monkeypatch.chdir(tmp_path)
    assert "from recipes/base/tiny, seed 3" in summary(read_run_folder("run"))
    assert near_path("Qwen/Qwen2.5-0.5B", folder) == "Qwen/Qwen2.5-0.5B"
    assert near_path("/elsewhere/models/qwen", folder) == "models/qwen"
