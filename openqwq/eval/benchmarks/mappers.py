"""Rows of published benchmarks, in each layout that they are published in, as items.

Every mapper raises RowError for a row that is not of its benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openqwq.rows import RowError, text_of

from .benchmark import Item

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""The sentence that QwQ's authors ask for in mathematics; their data files hold it already."""
STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{}\n```\n\n"
)
"""LiveCodeBench's endings, as in QwQ's own file (QwenLM/QwQ eval/data/livecodebench_v5.jsonl)."""

Row = Mapping[str, Any]


def maths_row(row: Row) -> Item:
    """AIME and MATH-500: `problem`, `question` or QwQ's `prompt`, and `answer`."""
    column = next((name for name in ("problem", "question", "prompt") if name in row), None)
    if column is None:
        raise RowError("lacks `problem`")
    question = text_of(row, column).removesuffix(BOXED).rstrip("\n")
    return Item(key=_name(row, "unique_id", "id"), values={"question": question}, answer=_answer(row, "answer"))


def gsm8k_row(row: Row) -> Item:
    """The gold answer stands after the last `####`."""
    _, mark, gold = text_of(row, "answer").rpartition("####")
    if not mark:
        raise RowError("`answer` has no `####`")
    return Item(values={"question": text_of(row, "question")}, answer=gold.strip().replace(",", ""))


def humaneval_row(row: Row) -> Item:
    """The function's head and description are the question; the row's tests reach the verifier."""
    answer = {column: text_of(row, column) for column in ("prompt", "test", "entry_point")}
    return Item(key=_name(row, "task_id"), values={"prompt": answer["prompt"].rstrip("\n")}, answer=answer)


def mbpp_row(row: Row) -> Item:
    """The sanitized set's `prompt`, or the full set's `text`, with one test, which shows the function's name."""
    tests = row.get("test_list")
    if not isinstance(tests, list | tuple) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowError("`test_list` is not a list of texts")
    question = text_of(row, "prompt" if "prompt" in row else "text")
    answer = {"test_list": list(tests), "test_imports": list(row.get("test_imports") or [])}
    if isinstance(row.get("code"), str):
        answer["code"] = row["code"]
    return Item(key=_name(row, "task_id"), values={"question": question, "test": tests[0]}, answer=answer)


def ifeval_row(row: Row) -> Item:
    """The prompt is sent alone; the hub's rows hold null for arguments that an instruction has not."""
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments) or not names:
        raise RowError("`instruction_id_list` and `kwargs` are not two lists of one length")
    instructions = [
        {"id": name, "kwargs": {key: value for key, value in (kwargs or {}).items() if value is not None}}
        for name, kwargs in zip(names, arguments, strict=True)
    ]
    return Item(
        key=_name(row, "key"), values={"question": text_of(row, "prompt")}, answer={"instructions": instructions}
    )


def livecodebench_row(row: Row) -> Item:
    """A row of code_generation_lite; rows without tests, as in QwQ's own file, cannot be judged."""
    if not (row.get("public_test_cases") or row.get("private_test_cases")):
        raise RowError("has no tests (`public_test_cases`, `private_test_cases`)")
    starter = row.get("starter_code") or ""
    values = {
        "question": text_of(row, "question_content"),
        "format": STARTER.replace("{}", starter) if starter else STDIN,
    }
    answer = {
        key: row.get(key) for key in ("public_test_cases", "private_test_cases", "metadata") if row.get(key) is not None
    }
    return Item(key=_name(row, "question_id"), values=values, answer=answer, group=str(row.get("contest_id") or ""))


def columns_row(columns: Mapping[str, str]) -> Callable[[Row], Item]:
    """The mapper of a benchmark of one's own: columns named by what they are (`answer`, `key`, `group`)."""

    def read(row: Row) -> Item:
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        return Item(
            key=_name(row, columns.get("key", "id")),
            values={name: text for name, text in texts.items() if name != columns.get("answer", "answer")},
            answer=_answer(row, columns.get("answer", "answer")),
            group=_name(row, columns.get("group", "group")),
        )

    return read


def _name(row: Row, *columns: str) -> str:
    """The text or number under the first of the columns that the row has; "" without one."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return ""


def _answer(row: Row, column: str) -> Any:
    if row.get(column) in (None, ""):
        raise RowError(f"lacks `{column}`")
    return row[column]
