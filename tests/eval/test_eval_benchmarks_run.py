"""Runs of benchmarks: kept to the sample, continued after a kill, and never an error scored as an answer."""

import json
import random
import threading
from dataclasses import replace

import pytest
from benchmark_policies import GOLD, NEAR, CharTokenizer, ScriptedPolicy, complete, rows_of

from openqwq.errors import UserError
from openqwq.eval.benchmarks.catalogue import find_benchmark
from openqwq.eval.benchmarks.folder import BenchmarkFolder
from openqwq.eval.benchmarks.load import Data
from openqwq.eval.benchmarks.report import report_markdown, summary_lines
from openqwq.eval.benchmarks.results import summarise_run
from openqwq.eval.benchmarks.run import Plan, run_benchmark, sample_seed
from openqwq.eval.benchmarks.samplers import PolicySampler, ServerSampler
from openqwq.json_client import ChatClient
from openqwq.log import read_jsonl

FILES = ("samples.jsonl", "verdicts.jsonl", "results.json", "report.md")


def plan_of(name="gsm8k", *, samples=4, **changes):
    benchmark = find_benchmark(name)
    data = Data(problems=benchmark.problems(rows_of(name)), origin="invented", sha256="0")
    protocol = replace(benchmark.protocol(None), samples=samples, name="custom", max_tokens=64)
    return Plan(model="scripted", benchmark=benchmark, protocol=protocol, data=data, **changes)


def sometimes(plan):
    """Right or wrong by the sample's seed."""
    number = {problem.prompt: i for i, problem in enumerate(plan.asked)}
    name = plan.benchmark.name

    def answer(prompt, params):
        texts = GOLD if random.Random(params.seed).random() < 0.6 else NEAR
        return texts[name][number[prompt]]

    return answer


def run(plan, folder, policy):
    kept = BenchmarkFolder(folder, plan.to_dict())
    run_benchmark(plan, PolicySampler(policy, CharTokenizer()), kept)
    return finish(plan, kept)


def finish(plan, kept):
    results = summarise_run(plan, kept)
    kept.write("results.json", json.dumps(results.to_dict()))
    kept.write("report.md", report_markdown(plan, results))
    return results


def contents(folder):
    return {name: sorted((folder / name).read_text().splitlines()) for name in FILES}


def distinct_contents(folder):
    """A verdict may stand there twice where its sample was lost after it."""
    return {name: set(lines) for name, lines in contents(folder).items()}


def test_run_that_is_killed_at_any_sample_and_continued_equals_the_unbroken_one(tmp_path):
    plan = plan_of()
    run(plan, tmp_path / "whole", ScriptedPolicy(sometimes(plan)))
    for stop in range(12):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(plan, folder, ScriptedPolicy(sometimes(plan), stop_after=stop))
        assert len(read_jsonl(folder / "samples.jsonl") if stop else []) == stop
        rest = ScriptedPolicy(sometimes(plan))
        run(plan, folder, rest)
        assert len(rest.seeds) == 12 - stop
        assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["samples.jsonl", "verdicts.jsonl"])
def test_file_torn_at_any_byte_is_repaired(name, tmp_path):
    plan = plan_of(samples=1)
    run(plan, tmp_path / "whole", ScriptedPolicy(sometimes(plan)))
    data = (tmp_path / "whole" / name).read_bytes()
    for length in range(0, len(data), 41):
        folder = tmp_path / f"torn-{length}"
        run(plan, folder, ScriptedPolicy(sometimes(plan)))
        (folder / name).write_bytes(data[:length])
        run(plan, folder, ScriptedPolicy(sometimes(plan)))
        assert distinct_contents(folder) == distinct_contents(tmp_path / "whole")


def test_verdict_on_a_lost_sample_does_not_judge_the_one_in_its_place(tmp_path):
    plan = plan_of(samples=1)
    answers = dict(zip(_prompts(plan), GOLD["gsm8k"], strict=True))
    assert run(plan, tmp_path, ScriptedPolicy(lambda prompt, _: answers[prompt])).score == 1.0
    (tmp_path / "samples.jsonl").write_bytes(b"")
    assert run(plan, tmp_path, ScriptedPolicy(lambda *_: "\\boxed{99}")).score == 0.0


def test_samples_may_grow_in_the_same_folder(tmp_path):
    few, many = plan_of(samples=2), plan_of(samples=5)
    run(few, tmp_path / "grown", ScriptedPolicy(sometimes(few)))
    more = ScriptedPolicy(sometimes(many))
    run(many, tmp_path / "grown", more)
    assert len(more.seeds) == 9
    run(many, tmp_path / "whole", ScriptedPolicy(sometimes(many)))
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    with pytest.raises(UserError, match="5 samples, more than the 2 asked for"):
        BenchmarkFolder(tmp_path / "grown", few.to_dict())


def test_another_plan_is_not_mixed_in(tmp_path):
    run(plan_of(), tmp_path / "r", ScriptedPolicy(sometimes(plan_of())))
    with pytest.raises(UserError, match="another `seed`") as error:
        BenchmarkFolder(tmp_path / "r", plan_of(seed=1).to_dict())
    assert "--out" in error.value.hint
    other = replace(plan_of(), protocol=replace(plan_of().protocol, temperature=1.0))
    with pytest.raises(UserError, match="another `sampling`"):
        BenchmarkFolder(tmp_path / "r", other.to_dict())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds no plan"):
        BenchmarkFolder(tmp_path / "foreign", plan_of().to_dict())


def test_each_sample_has_a_seed_of_its_own():
    seeds = {sample_seed(run, key, index) for run in (0, 1) for key in ("a", "b") for index in (0, 1)}
    assert len(seeds) == 8 and all(0 <= seed < 2**31 for seed in seeds)


def test_failed_samples_are_no_zeros_and_give_bounds(tmp_path):
    plan = plan_of(samples=2)
    fails = {sample_seed(0, "1", 0)}

    def answer(prompt, params):
        number = [p.prompt for p in plan.asked].index(prompt)
        return complete("", "abort", "no room") if params.seed in fails else GOLD["gsm8k"][number]

    results = run(plan, tmp_path, ScriptedPolicy(answer))
    assert (results.score, results.low, results.high) == (None, pytest.approx(5 / 6), 1.0)
    assert (results.expected, results.sampled, results.judged) == (6, 5, 5)
    assert read_jsonl(tmp_path / "errors.jsonl") == [{"key": "1", "sample": 0, "error": "no room"}]
    assert "between 83.3 and 100.0 (5 of 6 samples judged)" in "\n".join(summary_lines(plan, results))
    fails.clear()
    again = run(plan, tmp_path, ScriptedPolicy(answer))
    assert (again.score, again.same.mean) == (1.0, 1.0)


def test_unjudged_samples_are_no_zeros_and_are_judged_again_later(tmp_path):
    plan = plan_of(samples=1)
    broken = replace(plan.asked[2], answer="")
    unreadable = replace(plan, data=replace(plan.data, problems=[*plan.asked[:2], broken]))
    results = run(
        unreadable, tmp_path, ScriptedPolicy(lambda p, _: dict(zip(_prompts(plan), GOLD["gsm8k"], strict=True))[p])
    )
    assert (results.score, results.low, results.high) == (None, pytest.approx(2 / 3), 1.0)
    assert results.unjudged_reasons == {"unreadable gold answer": 1}
    nothing_to_sample = ScriptedPolicy(None)
    assert run(plan, tmp_path, nothing_to_sample).score == 1.0
    assert nothing_to_sample.seeds == []


def _prompts(plan):
    return [problem.prompt for problem in plan.asked]


def test_score_under_smaller_token_limits_is_that_of_shorter_answers(tmp_path):
    plan = plan_of(samples=1)
    lengths = dict(zip(_prompts(plan), (2, 20, 60), strict=True))
    texts = dict(zip(_prompts(plan), GOLD["gsm8k"], strict=True))

    def answer(prompt, params):
        return replace(complete(f"</think>\n\n{texts[prompt]}"), token_ids=(7,) * lengths[prompt])

    results = run(plan, tmp_path, ScriptedPolicy(answer))
    assert results.budgets == {
        32: pytest.approx(2 / 3),
        16: pytest.approx(1 / 3),
        8: pytest.approx(1 / 3),
        4: pytest.approx(1 / 3),
        2: pytest.approx(1 / 3),
    }
    assert (results.tokens_mean, results.tokens_p95) == (pytest.approx(82 / 3), 60)


def test_answers_cut_below_the_protocols_limit_are_noted(tmp_path):
    plan = plan_of(samples=1)
    results = run(plan, tmp_path, ScriptedPolicy(lambda *_: complete("hm", "length")))
    assert results.cut_early == 3
    assert "3 samples were cut off below 64 tokens" in report_markdown(plan, results)


def served(plan, *, misbehave):
    """A server's `respond`: deterministic by seed, each request at first refused in one of several ways."""
    answer, seen = sometimes(plan), {}
    faults = (
        (429, {"Retry-After": "0"}, {"error": "slow down"}),
        (500, {}, b"oops"),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
        (200, {}, {"choices": [{"message": {"content": "\\boxed{9}"}, "finish_reason": None}]}),
        (200, {}, b'{"choices": [{"mess'),
        "hang",
    )

    def respond(body, headers):
        seed = body["seed"]
        tries = seen[seed] = seen.get(seed, -1) + 1
        if misbehave and tries < 2:
            fault = faults[(seed + tries) % len(faults)]
            if fault != "hang":
                return fault
            misbehave.wait(1.0)
        request = type("Params", (), {"seed": seed})
        message = {"content": answer(body["messages"][-1]["content"], request), "reasoning_content": "Let me see."}
        usage = {"completion_tokens": 10}
        return 200, {}, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}

    return respond


def run_served(plan, folder, url, **options):
    kept = BenchmarkFolder(folder, plan.to_dict())
    client = ChatClient(url, "m", key_env="", timeout_s=0.5, retries=options.pop("retries", 6), backoff_s=0.01)
    run_benchmark(plan, ServerSampler(client, workers=4, **options), kept)
    return finish(plan, kept)


def test_misbehaving_server_changes_no_byte_of_the_finished_folder(json_server, tmp_path):
    plan = plan_of(samples=6)
    with json_server(served(plan, misbehave=None)) as (url, log):
        quiet = run_served(plan, tmp_path / "quiet", url)
    assert log[0][1]["top_k"] == 40 and log[0][1]["max_tokens"] == 64
    released = threading.Event()
    with json_server(served(plan, misbehave=released)) as (url, log):
        run_served(plan, tmp_path / "loud", url)
        released.set()
    assert len(log) > 18 and quiet.is_whole
    assert contents(tmp_path / "loud") == contents(tmp_path / "quiet")


def test_server_and_policy_give_the_same_scores(json_server, tmp_path):
    plan = plan_of(samples=6)
    with json_server(served(plan, misbehave=None)) as (url, _):
        remote = run_served(plan, tmp_path / "remote", url)
    local = run(plan, tmp_path / "local", ScriptedPolicy(sometimes(plan)))
    assert (remote.score, remote.same, remote.new, remote.shares) == (local.score, local.same, local.new, local.shares)


def test_server_that_refuses_the_first_request_ends_the_run_before_any_other(json_server, tmp_path):
    refuse = (400, {}, {"error": "unknown parameter top_k"})
    with (
        json_server(lambda *_: refuse) as (url, log),
        pytest.raises(UserError, match="unknown parameter top_k"),
    ):
        run_served(plan_of(), tmp_path, url)
    assert len(log) == 1 and not (tmp_path / "samples.jsonl").exists()


def test_refusal_of_one_later_request_is_a_hole_of_that_request_alone(json_server, tmp_path):
    plan = plan_of(samples=2)
    respond = served(plan, misbehave=None)
    bad = sample_seed(0, "1", 1)
    with json_server(
        lambda body, headers: (400, {}, {"error": "too long"}) if body["seed"] == bad else respond(body, headers)
    ) as (url, _):
        results = run_served(plan, tmp_path, url)
    assert (results.sampled, results.score) == (5, None)
    assert [row["sample"] for row in read_jsonl(tmp_path / "errors.jsonl")] == [1]


def test_server_that_goes_away_ends_the_run_and_keeps_its_samples(json_server, tmp_path):
    plan = plan_of(samples=30)
    respond, count = served(plan, misbehave=None), []

    def leave(body, headers):
        count.append(1)
        return respond(body, headers) if len(count) <= 5 else (503, {}, b"")

    with json_server(leave) as (url, _), pytest.raises(UserError, match="requests in a row failed") as error:
        run_served(plan, tmp_path, url, retries=0)
    assert "5 samples are kept" in error.value.hint
    assert len(read_jsonl(tmp_path / "verdicts.jsonl")) == 5


@pytest.mark.parametrize(
    ("message", "reason", "outcome"),
    [
        ({"content": "\\boxed{5}"}, "stop", "correct"),
        ({"content": "<think>So.</think>\\boxed{5}"}, "stop", "correct"),
        ({"content": "So \\boxed{4}.\n</think>\n\\boxed{5}"}, "stop", "correct"),
        ({"content": "\\boxed{5}", "reasoning": "Perhaps \\boxed{4}"}, "stop", "correct"),
        ({"content": None, "reasoning_content": "It is \\boxed{5}"}, "stop", "no answer"),
        ({"content": None, "reasoning_content": "It is \\boxed{5}"}, "length", "cut off"),
        ({"content": "<think>It is \\boxed{5}"}, "stop", "no answer"),
        ({"content": "It is \\boxed{5}"}, "length", "cut off"),
        ({"content": ""}, "stop", "no answer"),
    ],
)
def test_answer_is_found_wherever_the_server_puts_the_thinking(message, reason, outcome, json_server, tmp_path):
    plan = plan_of(samples=1, problems=1)
    with json_server(lambda *_: (200, {}, {"choices": [{"message": message, "finish_reason": reason}]})) as (url, _):
        results = run_served(plan, tmp_path, url)
    assert results.shares[outcome] == 1.0
