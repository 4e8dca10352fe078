"""The public benchmarks: their rows in each published layout, their prompts, and what scores how much."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_policies import GOLD, NEAR, ROWS, CharTokenizer, ScriptedPolicy, complete, rows_of

from openqwq.errors import UserError
from openqwq.eval.benchmarks.benchmark import render_prompt
from openqwq.eval.benchmarks.catalogue import BENCHMARKS, find_benchmark
from openqwq.eval.benchmarks.folder import BenchmarkFolder
from openqwq.eval.benchmarks.load import Data, load_data
from openqwq.eval.benchmarks.mappers import BOXED
from openqwq.eval.benchmarks.results import summarise_run
from openqwq.eval.benchmarks.run import Plan, run_benchmark
from openqwq.eval.benchmarks.samplers import PolicySampler
from openqwq.rows import RowError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NAMES = [benchmark.name for benchmark in BENCHMARKS]


def plan_of(name, *, problems=None, samples=1):
    benchmark = find_benchmark(name)
    return Plan(
        model="scripted",
        benchmark=benchmark,
        protocol=replace(benchmark.protocol(None), samples=samples, name="custom"),
        data=Data(problems=problems or benchmark.problems(rows_of(name)), origin="invented", sha256="0"),
    )


def score(plan, answers, folder):
    """The results of a policy that answers the n-th problem with the n-th text."""
    texts = {problem.prompt: text for problem, text in zip(plan.asked, answers, strict=True)}
    kept = BenchmarkFolder(folder, plan.to_dict())
    run_benchmark(plan, PolicySampler(ScriptedPolicy(lambda prompt, _: texts[prompt]), CharTokenizer()), kept)
    return summarise_run(plan, kept)


@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_score_100_and_near_misses_0(name, tmp_path):
    plan = plan_of(name)
    gold = score(plan, GOLD[name], tmp_path / "gold")
    assert (gold.score, gold.shares["correct"], gold.is_whole) == (1.0, 1.0, True)
    near = score(plan, NEAR[name], tmp_path / "near")
    assert (near.score, near.shares["correct"], near.is_whole) == (0.0, 0.0, True)


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_chains_are_all_truncated_whatever_they_hold(name, tmp_path):
    plan = plan_of(name)
    results = score(plan, [complete(f"So\n</think>\n\n{text}", "length") for text in GOLD[name]], tmp_path)
    assert (results.score, results.shares["cut off"]) == (0.0, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_thinking_that_never_closes_is_no_answer(name, tmp_path):
    results = score(plan_of(name), [complete(text) for text in GOLD[name]], tmp_path)
    assert (results.score, results.shares["no answer"]) == (0.0, 1.0)


def test_drafts_inside_the_thinking_are_not_judged(tmp_path):
    draft = complete(f"Perhaps {GOLD['gsm8k'][0]}?\n</think>\n\nI do not know.")
    results = score(plan_of("gsm8k"), [draft, *GOLD["gsm8k"][1:]], tmp_path)
    assert results.score == pytest.approx(2 / 3)
    assert results.shares["no answer"] == pytest.approx(1 / 3)


def test_rows_outside_of_the_window_are_left_out():
    problems = find_benchmark("livecodebench").problems(rows_of("livecodebench"))
    assert [problem.id for problem in problems] == ["abc1_a", "arc185_c"]
    assert {problem.metadata["group"] for problem in problems} == {"abc1"}


def test_score_is_also_given_without_problems_known_to_be_bad(tmp_path):
    results = score(plan_of("humaneval"), [GOLD["humaneval"][0], NEAR["humaneval"][1]], tmp_path)
    assert (results.score, results.without_bad, results.known_bad) == (0.5, 1.0, 1)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("aime24", {"text": "What?", "answer": "3"}),
        ("aime24", {"problem": "What?", "answer": None}),
        ("aime24", {"problem": "  ", "answer": "3"}),
        ("gsm8k", {"question": "What?", "answer": "3"}),
        ("humaneval", {"prompt": "def f():", "entry_point": "f"}),
        ("mbpp", {"prompt": "What?", "test_list": []}),
        ("ifeval", {"prompt": "What?", "instruction_id_list": ["a"], "kwargs": []}),
        ("livecodebench", {"question_content": "What?", "contest_date": "2024-10-01"}),
    ],
)
def test_row_of_another_layout_is_an_error_that_names_its_place(name, row):
    with pytest.raises(UserError, match="file, row 1 is no row of"):
        find_benchmark(name).problems([("file, row 1", row)])


def test_duplicate_key_is_an_error():
    row = ROWS["mbpp"][0]
    with pytest.raises(UserError, match="key `7` was there before"):
        find_benchmark("mbpp").problems([("row 1", row), ("row 2", row)])


def test_placeholders_inside_values_and_latex_stay_as_they_are():
    assert render_prompt("{a} in \\boxed{} of \\frac{1}{2}", {"a": "{b}"}) == "{b} in \\boxed{} of \\frac{1}{2}"
    with pytest.raises(RowError, match=r"\{b\}"):
        render_prompt("{b}", {"a": "x"})


def test_unknown_names_are_errors_that_name_the_nearest():
    with pytest.raises(UserError, match="no benchmark `MATH-50`") as error:
        find_benchmark("MATH-50")
    assert "math500" in error.value.hint
    with pytest.raises(UserError, match="no protocol `gredy`") as error:
        find_benchmark("gsm8k").protocol("gredy")
    assert "greedy" in error.value.hint


def shared(path):
    if not (SHARED / path).exists():
        pytest.skip(f"needs the data file {path}, which is not part of the repository")
    return SHARED / path


FILES = {
    "aime24": ("qwq_eval/aime24.jsonl", 30),
    "math500": ("math500/test.jsonl", 500),
    "gsm8k": ("gsm8k/test.jsonl", 1319),
    "humaneval": ("humaneval/HumanEval.jsonl.gz", 164),
    "mbpp": ("mbpp/sanitized-mbpp.json", 427),
    "ifeval": ("ifeval_official/input_data.jsonl", 541),
}


@pytest.mark.parametrize("name", list(FILES))
def test_published_file_is_read_whole_and_known_by_its_hash(name):
    path, count = FILES[name]
    data = load_data(find_benchmark(name), shared(path))
    known = find_benchmark(name).source.files
    assert len(data.problems) == count == find_benchmark(name).num_problems
    assert (data.origin, data.sha256) in [(file.origin, file.sha256) for file in known]
    assert set(find_benchmark(name).known_bad) <= {problem.id for problem in data.problems}


def test_prompts_equal_those_of_qwq_own_files():
    path = shared("qwq_eval/aime24.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [p.prompt for p in load_data(find_benchmark("aime24"), path).problems] == [row["prompt"] for row in rows]
    ends = set()
    [plain, starter] = find_benchmark("livecodebench").problems(rows_of("livecodebench"))
    for line in shared("qwq_eval/livecodebench_v5.jsonl").read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        head, _, tail = prompt.rpartition("\n\nRead the inputs")
        assert prompt.startswith(plain.prompt.partition("Print the sum.")[0])
        ends.add("\n\nRead the inputs" + tail if head else "starter")
    assert ends == {plain.prompt.partition("Print the sum.")[2], "starter"}
    assert starter.prompt.endswith("```python\nclass Solution:\n    def twice(self, n: int) -> int:\n        \n```\n\n")


@pytest.mark.parametrize("name", ["aime24", "math500", "gsm8k"])
def test_gold_of_the_published_maths_files_scores_100(name, tmp_path):
    data = load_data(find_benchmark(name), shared(FILES[name][0]))
    plan = plan_of(name, problems=data.problems)
    results = score(plan, [f"\\boxed{{{problem.answer}}}" for problem in plan.asked], tmp_path)
    assert (results.score, results.is_whole) == (1.0, True)
    assert BOXED in plan.asked[0].prompt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_reference_programs_of_the_published_files_score_100(name, tmp_path):
    path = shared(FILES[name][0])
    plan = plan_of(name, problems=load_data(find_benchmark(name), path).problems)
    if name == "humaneval":
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        programs = [row["prompt"] + row["canonical_solution"] for row in rows]
    else:
        programs = [row["code"] for row in json.loads(path.read_text())]
    results = score(plan, [f"```python\n{program}\n```" for program in programs], tmp_path)
    assert (results.score, results.is_whole) == (1.0, True)
