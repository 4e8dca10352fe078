"""What the tests of benchmarks share: invented rows in the published layouts, and policies with a script."""

import json

from openqwq.types import Completion

ROWS = {
    "aime24": [
        {"id": 60, "problem": "What is 20 + 3?", "answer": "023", "solution": "Count."},
        {"id": 61, "problem": "What is $2^{\\frac{4}{2}}$?", "answer": "4"},
        {"id": 62, "problem": "How many sides has a {triangle}?", "answer": "3"},
    ],
    "math500": [
        {"problem": "Halve 1.", "answer": "\\frac{1}{2}", "subject": "A", "level": 1, "unique_id": "test/a/1.json"},
        {
            "problem": "Solve $x^2=1$.",
            "answer": "\\{-1, 1\\}",
            "subject": "A",
            "level": 2,
            "unique_id": "test/a/2.json",
        },
        {"problem": "Name a pair.", "answer": "(3, \\pi)", "subject": "G", "level": 2, "unique_id": "test/g/3.json"},
    ],
    "gsm8k": [
        {"question": "Ann has 2 figs and buys 3.", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        {"question": "A house costs 70000.", "answer": "It costs #### signs.\n#### 70,000"},
        {"question": "Bo loses 4 of 1.", "answer": "#### -3"},
    ],
    "humaneval": [
        {
            "task_id": "Made/0",
            "prompt": 'def twice(n: int) -> int:\n    """Two times n."""\n',
            "entry_point": "twice",
            "canonical_solution": "    return 2 * n\n",
            "test": "def check(candidate):\n    assert candidate(4) == 8\n    assert candidate(-1) == -2\n",
        },
        {
            "task_id": "HumanEval/32",
            "prompt": 'import math\n\n\ndef root(n: int) -> float:\n    """The root."""\n',
            "entry_point": "root",
            "canonical_solution": "    return math.sqrt(n)\n",
            "test": "def check(candidate):\n    assert candidate(9) == 3\n",
        },
    ],
    "mbpp": [
        {
            "task_id": 7,
            "prompt": "Write a function to add.",
            "code": "def add(a, b):\n    return a + b",
            "test_imports": [],
            "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
        },
        {
            "task_id": 8,
            "prompt": "Write a function to take the floor.",
            "code": "import math\ndef low(a):\n    return math.floor(a)",
            "test_imports": ["import math"],
            "test_list": ["assert low(1.5) == math.floor(1.5)"],
        },
    ],
    "ifeval": [
        {
            "key": 2078,
            "prompt": "Write two words. Do not use any commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None, "relation": None}],
        },
        {
            "key": 5,
            "prompt": "Answer in at least 4 words.",
            "instruction_id_list": ["length_constraints:number_words"],
            "kwargs": [{"relation": "at least", "num_words": 4, "keywords": None}],
        },
    ],
    "livecodebench": [
        {
            "question_id": "abc1_a",
            "contest_id": "abc1",
            "contest_date": "2024-10-01T00:00:00",
            "question_content": "Print the sum.",
            "starter_code": "",
            "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
            "private_test_cases": json.dumps([{"input": "5 5\n", "output": "10\n", "testtype": "stdin"}]),
            "metadata": "{}",
        },
        {
            "question_id": "arc185_c",
            "contest_id": "abc1",
            "contest_date": "2024-11-01T00:00:00",
            "question_content": "Double it.",
            "starter_code": "class Solution:\n    def twice(self, n: int) -> int:\n        ",
            "public_test_cases": json.dumps([{"input": "4", "output": "8", "testtype": "functional"}]),
            "private_test_cases": "[]",
            "metadata": json.dumps({"func_name": "twice"}),
        },
        {
            "question_id": "old",
            "contest_id": "abc0",
            "contest_date": "2023-11-01T00:00:00",
            "question_content": "Outside of the window.",
            "starter_code": "",
            "public_test_cases": json.dumps([{"input": "1", "output": "1", "testtype": "stdin"}]),
            "private_test_cases": "[]",
            "metadata": "{}",
        },
    ],
}
GOLD = {
    "aime24": ["\\boxed{23}", "\\boxed{4}", "\\boxed{3}"],
    "math500": ["\\boxed{0.5}", "\\boxed{\\{1, -1\\}}", "\\boxed{(3, \\pi)}"],
    "gsm8k": ["\\boxed{5}", "\\boxed{70,000}", "\\boxed{-3}"],
    "humaneval": [
        "```python\ndef twice(n):\n    return n + n\n```",
        "```python\nimport math\ndef root(n):\n    return math.sqrt(n)\n```",
    ],
    "mbpp": ["```python\ndef add(a, b):\n    return b + a\n```", "```python\ndef low(a):\n    return int(a // 1)\n```"],
    "ifeval": ["Two words", "These are really five words"],
    "livecodebench": [
        "```python\nprint(sum(map(int, input().split())))\n```",
        "```python\nclass Solution:\n    def twice(self, n):\n        return 2 * n\n```",
    ],
}
NEAR = {
    "aime24": ["\\boxed{24}", "4", "\\boxed{3.5}"],
    "math500": ["\\boxed{0.51}", "\\boxed{1}", "\\boxed{(\\pi, 3)}"],
    "gsm8k": ["\\boxed{6}", "\\boxed{7,000}", "\\boxed{3}"],
    "humaneval": [
        "```python\ndef twice(n):\n    return abs(n + n)\n```",
        "```python\nimport math\ndef root(n):\n    return math.cbrt(n)\n```",
    ],
    "mbpp": ["```python\ndef add(a, b):\n    return a\n```", "```python\ndef low(a):\n    return int(a // 1) + 1\n```"],
    "ifeval": ["Two, words", "Only three words"],
    "livecodebench": [
        "```python\nprint(3)\n```",
        "```python\nclass Solution:\n    def twice(self, n):\n        return n + 3\n```",
    ],
}


def rows_of(name):
    return [(f"row {number}", row) for number, row in enumerate(ROWS[name], 1)]


class CharTokenizer:
    """Opens the thinking, as QwQ's template does."""

    def encode_plain(self, text):
        return [ord(c) for c in text]

    def encode_chat(self, messages):
        return self.encode_plain(messages[-1].content)

    def opens_thinking(self, prompt_ids):
        return True


class ScriptedPolicy:
    """`answer(prompt, params)` gives the text behind the thinking, or a whole Completion; counts its samples."""

    version = 0

    def __init__(self, answer, *, stop_after=None):
        self.answer, self.stop_after, self.seeds = answer, stop_after, []

    def generate(self, prompts, params):
        if len(self.seeds) == self.stop_after:
            raise KeyboardInterrupt
        self.seeds.append(params.seed)
        given = self.answer(prompts[0].messages[-1].content, params)
        return [[given if isinstance(given, Completion) else complete(f"Let me see.\n</think>\n\n{given}")]]


def complete(text, reason="stop", error=""):
    ids = (7,) * (len(text) // 4 + 1)
    return Completion(
        text=text, token_ids=ids, logprobs=(0.0,) * len(ids), policy_versions=(), finish_reason=reason, error=error
    )
