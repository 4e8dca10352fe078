"""The public benchmarks that `openqwq eval --benchmark` knows.

Sampling protocols: "qwq" is that of QwQ-32B's evaluation code (QwenLM/QwQ, eval/), "r1" that of DeepSeek-R1's readme.
QwQ-32B's authors publish no protocol for MATH-500, GSM8K, HumanEval and MBPP; "recommended" is their sampling advice.

Public: `BENCHMARKS`, `find_benchmark`.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from openqwq.errors import UserError

from .benchmark import Benchmark, DataFile, Protocol, Published, Source
from .mappers import BOXED, gsm8k_row, humaneval_row, ifeval_row, livecodebench_row, maths_row, mbpp_row

QWQ_CODE = "QwenLM/QwQ eval/ at 620a5ea"
QWQ = Protocol(name="qwq", temperature=0.6, top_p=0.95, top_k=40, max_tokens=32768, samples=64, source=QWQ_CODE)
R1 = Protocol(
    name="r1", temperature=0.6, top_p=0.95, top_k=0, max_tokens=32768, samples=64, source="DeepSeek-R1's readme"
)
GREEDY = Protocol(
    name="greedy", temperature=0.0, top_p=1.0, top_k=0, max_tokens=32768, samples=1, source="no published protocol"
)
RECOMMENDED = replace(QWQ, name="recommended", samples=1, source="sampling advice on QwQ-32B's model card")
MATHS_PROMPT = "{question}\n" + BOXED
SANDBOX = "a sandbox for programs (see `openqwq doctor`)"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="aime24",
        kind="math",
        source=Source(
            hub="HuggingFaceH4/aime_2024",
            split="train",
            files=(
                DataFile(
                    origin="QwenLM/QwQ eval/data/aime24.jsonl",
                    sha256="5a7a817807c8c2b6b541631deaa6d8c2eb7f0420e0f2373a25878921e920b6da",
                    rows=30,
                ),
            ),
        ),
        mapper=maths_row,
        prompt=MATHS_PROMPT,
        protocols=(QWQ, R1, GREEDY),
        verifier="math",
        num_problems=30,
        licence="problems: Mathematical Association of America",
        published=(
            Published(model="QwQ-32B", score=79.5, samples=64, source="Qwen's announcement"),
            Published(model="QwQ-32B", score=78.1, samples=64, source="NeMo-Skills"),
            Published(model="QwQ-32B", score=79.5, samples=32, source="Skywork-OR1's report"),
        ),
    ),
    Benchmark(
        name="math500",
        kind="math",
        source=Source(
            hub="HuggingFaceH4/MATH-500",
            files=(
                DataFile(
                    origin="hkust-nlp/simpleRL-reason examples/simplelr_math_eval/data/math500/test.jsonl",
                    sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
                    rows=500,
                ),
            ),
        ),
        mapper=maths_row,
        prompt=MATHS_PROMPT,
        protocols=(RECOMMENDED, R1, GREEDY),
        verifier="math",
        num_problems=500,
        licence="MIT",
        published=(
            Published(model="QwQ-32B", score=98.0, samples=None, source="the Qwen3 report"),
            Published(model="QwQ-32B", score=95.8, samples=1, source="evalscope's documentation"),
            Published(model="QwQ-32B", score=95.5, samples=None, source="EXAONE-Deep's report"),
        ),
    ),
    Benchmark(
        name="gsm8k",
        kind="math",
        source=Source(
            hub="openai/gsm8k",
            subset="main",
            files=(
                DataFile(
                    origin="openai/grade-school-math grade_school_math/data/test.jsonl",
                    sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
                    rows=1319,
                ),
            ),
        ),
        mapper=gsm8k_row,
        prompt=MATHS_PROMPT,
        protocols=(RECOMMENDED, GREEDY),
        verifier="math",
        num_problems=1319,
        licence="MIT",
    ),
    Benchmark(
        name="humaneval",
        kind="code",
        source=Source(
            hub="openai/openai_humaneval",
            files=(
                DataFile(
                    origin="openai/human-eval data/HumanEval.jsonl.gz",
                    sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
                    rows=164,
                ),
            ),
        ),
        mapper=humaneval_row,
        prompt="Please provide a self-contained Python script that solves the following problem in a markdown code "
        "block:\n```python\n{prompt}\n```",
        protocols=(RECOMMENDED, GREEDY),
        verifier="code",
        num_problems=164,
        needs=SANDBOX,
        licence="MIT",
        known_bad={
            f"HumanEval/{number}": "listed as flawed in openai/human-eval#23"
            for number in (32, 38, 41, 47, 50, 57, 64, 67, 75, 83)
        },
    ),
    Benchmark(
        name="mbpp",
        kind="code",
        source=Source(
            hub="google-research-datasets/mbpp",
            subset="sanitized",
            files=(
                DataFile(
                    origin="google-research/mbpp sanitized-mbpp.json",
                    sha256="8ac32b2799150228e2d745aed09c870b7e4444246d4727d1004576207ef40769",
                    rows=427,
                ),
            ),
        ),
        mapper=mbpp_row,
        prompt="{question} The program goes into one Python code block. It has to pass this test:\n"
        "```python\n{test}\n```",
        protocols=(RECOMMENDED, GREEDY),
        verifier="code",
        num_problems=427,
        needs=SANDBOX,
        licence="CC BY 4.0",
    ),
    Benchmark(
        name="ifeval",
        kind="instruction",
        source=Source(
            hub="google/IFEval",
            split="train",
            files=(
                DataFile(
                    origin="google-research instruction_following_eval/data/input_data.jsonl",
                    sha256="67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
                    rows=541,
                ),
                DataFile(
                    origin="QwenLM/QwQ eval/data/ifeval.jsonl",
                    sha256="04c069cf5d5770952244f7b6bb38eb7b6e5faa143fc70995457a85de455e4cd2",
                    rows=541,
                ),
            ),
        ),
        mapper=ifeval_row,
        prompt="{question}",
        protocols=(replace(QWQ, samples=1), GREEDY),
        verifier="instructions",
        verifier_options={"protocol": "ifeval"},
        num_problems=541,
        licence="Apache-2.0",
        published=(Published(model="QwQ-32B", score=83.9, samples=1, source="Qwen's announcement"),),
        known_bad={"2078": "contradictory instructions (google-research/google-research#3103)"},
    ),
    Benchmark(
        name="livecodebench",
        kind="code",
        source=Source(),
        mapper=livecodebench_row,
        prompt="You will be given a question (problem specification) and will generate a correct Python program that "
        "matches the specification and passes all tests.\n\nQuestion: {question}\n\n{format}",
        protocols=(replace(QWQ, samples=8), GREEDY),
        verifier="code",
        verifier_options={"wall_s": 30.0},
        num_problems=279,
        needs=f"the rows of livecodebench/code_generation_lite, release v5, its test*.jsonl in one file; {SANDBOX}",
        licence="problems: LeetCode, AtCoder, Codeforces",
        published=(
            Published(model="QwQ-32B", score=63.4, samples=8, source="Qwen's announcement"),
            Published(model="QwQ-32B", score=61.6, samples=4, source="Skywork-OR1's report"),
        ),
        known_bad={
            "arc185_c": "wrong tests (LiveCodeBench's ERRATA.md)",
            "arc189_a": "wrong tests (LiveCodeBench's ERRATA.md)",
        },
        dates=("2024-08-01", "2025-01-04"),
    ),
)


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises UserError, naming the nearest, for an unknown one."""
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if name not in known:
        near = get_close_matches(name.lower().replace("-", ""), known, n=1)
        listed = "`openqwq eval --list` shows them; one of your own is a TOML file"
        raise UserError(
            f"there is no benchmark `{name}`", hint=f"did you mean `{near[0]}`? ({listed})" if near else listed
        )
    return known[name]
