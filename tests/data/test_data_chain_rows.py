"""Files of chains in the forms that data sets have, and what is said of a row that is none."""

import json

import pytest

from openqwq.data import read_chains
from openqwq.errors import UserError

USER = {"role": "user", "content": "7*8?"}


def read(tmp_path, *rows):
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_chains(path)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "7*8?", "thinking": "7 by 8", "answer": "56"},
        {"prompt": "7*8?", "reasoning": "7 by 8", "response": "56"},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": "<think>\n7 by 8\n</think>\n\n56"}]},
        {"prompt": "7*8?", "completion": "<think>\n7 by 8\n</think>\n\n56"},
        {"question": "7*8?", "answer": "7 by 8\n</think>\n\n56"},
        {"messages": [USER, {"role": "assistant", "content": "<think>7 by 8</think>56"}]},
        {"messages": [USER, {"role": "assistant", "content": "56", "reasoning_content": "7 by 8"}]},
        {"messages": [USER, {"role": "assistant", "content": "56", "reasoning": "7 by 8"}]},
        {
            "conversations": [
                {"from": "human", "value": "7*8?"},
                {"from": "gpt", "value": "<think>7 by 8</think>56"},
            ]
        },
    ],
)
def test_a_chain_is_read_from_every_usual_form(tmp_path, row):
    [chain] = read(tmp_path, row)
    assert (chain.problem.prompt, chain.thinking, chain.answer) == ("7*8?", "7 by 8", "56")


def test_rows_of_instructions_have_no_thinking_and_it_is_said(tmp_path, caplog):
    rows = [
        {"instruction": "Add.", "input": "7, 8", "output": "15"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    ]
    chains = read(tmp_path, *rows)
    assert [c.problem.prompt for c in chains] == ["Add.\n\n7, 8", "Say hello.", "Hi"]
    assert [(c.thinking, c.answer) for c in chains] == [("", "15"), ("", "Hello."), ("", "Hello.")]
    assert [m.role for m in chains[2].problem.messages] == ["system", "user"]
    assert "3 of 3 chains have no thinking" in caplog.text


def test_the_last_turn_of_a_conversation_is_learned_and_the_others_are_its_prompt(tmp_path):
    turns = [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "56"}, USER]
    [chain] = read(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "<think>again</think>56"}]})
    assert [m.role for m in chain.problem.messages] == ["system", "user", "assistant", "user"]
    assert (chain.thinking, chain.answer) == ("again", "56")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "7*8?", "thinking": "7 by 8"}, "it lacks `answer`"),
        ({"thinking": "7 by 8", "answer": "56"}, "it lacks `question`"),
        ({"question": 7, "answer": "56"}, "`question` is a number, not a text"),
        ({"question": "7*8?", "thinking": ["7"], "answer": "56"}, "`thinking` is a list, not a text"),
        ({"messages": [USER]}, "the last message is the user's, but a chain ends with the assistant's"),
        ({"messages": [{"role": "assistant", "content": "56"}]}, "it has no user's message before"),
        ({"messages": "7*8?"}, "`messages` is a text, not a list of messages"),
        ({"question": "7*8?", "answer": "<think>7 by 8 56"}, "its `<think>` is never closed"),
        ({"problem": {"id": "a"}, "thinking": "t", "answer": "56"}, "it lacks `source`"),
        ([1], "it is a list, not an object"),
    ],
)
def test_a_row_that_is_no_chain_is_named_with_an_example(tmp_path, row, why):
    good = {"question": "7*8?", "thinking": "7 by 8", "answer": "56"}
    with pytest.raises(UserError) as error:
        read(tmp_path, good, row)
    assert f"c.jsonl:2 is no chain: {why}" in error.value.message
    assert error.value.hint.startswith('a row looks like {"question": "7 * 8?", "thinking"')
