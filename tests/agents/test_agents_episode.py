"""The loop without input or output: what follows what, and token ids that are only ever appended."""

from pathlib import Path

import pytest

from openqwq.agents import Act, Done, Draw, Episode, Limits, Result, Toolbox, tool_of
from openqwq.agents.record import TokenRecord
from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer
from openqwq.types import Completion, Message, ToolCall

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
ASK = [Message("user", "What is 2 + 3?")]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def add(a: int, b: int) -> str:
    """The sum."""
    return str(a + b)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(BASE)


def wrote(tokenizer, text, *, end="<|im_end|>", finish_reason="stop"):
    ids = tokenizer.encode(text + end)
    return Completion(
        text=text,
        token_ids=tuple(ids),
        logprobs=tuple(-0.5 - i for i in range(len(ids))),
        policy_versions=(0,) * len(ids),
        finish_reason=finish_reason,
    )


def begin(tokenizer, history="keep", **limits):
    return Episode.begin(ASK, Toolbox([tool_of(add)]), Limits(**limits), tokenizer, history)


def say(episode, tokenizer, *texts, results=("5",)):
    """Play these turns; calls come to the results given."""
    for text in texts:
        assert isinstance(episode.next(), Draw)
        episode.give_completion(wrote(tokenizer, text))
        step = episode.next()
        if isinstance(step, Act):
            episode.give_results([Result(results[0]) for _ in step.calls])
    return episode.next()


def test_call_result_and_answer_end_an_episode(tokenizer):
    episode = begin(tokenizer)
    done = say(episode, tokenizer, f"add them\n</think>\n\n{CALL}", "so\n</think>\n\nIt is 5.")
    assert done == Done("answered") and episode.answer == "It is 5."
    assert [p.results for p in episode.turns] == [(Result("5"),), ()]
    assert episode.messages[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 2, "b": 3}'}
    assert episode.messages[2]["content"] == "5"


def test_kept_history_is_one_segment_of_the_ids_that_were_given_and_drawn(tokenizer):
    first, last = f"add them\n</think>\n\n{CALL}", "so\n</think>\n\nIt is 5."
    episode = begin(tokenizer)
    say(episode, tokenizer, first, last)
    [segment] = episode.record.segments
    messages = [*ASK, Message("assistant", "MARK"), Message("tool", "5")]
    whole = tokenizer.apply_chat_template(messages, tools=episode.toolbox.schemas)
    opened = "<think>\n"
    assert tokenizer.decode(segment.ids) == whole.replace("MARK", opened + first) + last + "<|im_end|>"
    drawn = [i for i, own in zip(segment.completion_ids, segment.loss_mask, strict=True) if own]
    assert drawn == [*wrote(tokenizer, first).token_ids, *wrote(tokenizer, last).token_ids]
    assert all((p == 0.0) == (not own) for p, own in zip(segment.logprobs, segment.loss_mask, strict=True))
    assert len(segment.logprobs) == len(segment.loss_mask) == len(segment.completion_ids)


def test_each_prompt_of_a_kept_history_begins_with_all_former_ids(tokenizer):
    episode = begin(tokenizer)
    for _ in range(3):
        former = episode.next().prompt.token_ids
        completion = wrote(tokenizer, f"a\n</think>\n\n{CALL}")
        episode.give_completion(completion)
        episode.give_results([Result("5")])
        prompt = episode.next().prompt
        assert prompt.token_ids[: len(former) + len(completion.token_ids)] == (*former, *completion.token_ids)
        assert prompt.thinking_opened


def test_stripped_history_is_the_templates_text_in_a_segment_a_turn(tokenizer):
    first, second = f"long thoughts\n</think>\n\n{CALL}", f"more\n</think>\n\n{CALL}"
    episode = begin(tokenizer, "strip")
    say(episode, tokenizer, first, second)
    call = ToolCall("add", {"a": 2, "b": 3})
    turn = [Message("assistant", tool_calls=(call,)), Message("tool", "5")]
    for n, segment in enumerate(episode.record.segments):
        assert segment.prompt_ids == tokenizer.encode_chat([*ASK, *turn * n], tools=episode.toolbox.schemas)
    assert len(episode.record.segments) == 3
    assert "long thoughts" not in tokenizer.decode(episode.record.segments[-1].prompt_ids)
    assert [all(s.loss_mask) for s in episode.record.segments[:2]] == [True, True]


def test_calls_written_in_other_words_stay_as_they_were_written(tokenizer):
    odd = '<tool_call>{"arguments":{"b":3,  "a":2},"name":"add"}</tool_call>'
    for history in ("keep", "strip"):
        episode = begin(tokenizer, history)
        say(episode, tokenizer, f"x\n</think>\n\n{odd}")
        assert odd in tokenizer.decode(episode.next().prompt.token_ids)


def test_no_control_token_comes_out_of_a_result(tokenizer):
    added = tokenizer.backend.get_added_tokens_decoder()
    for history in ("keep", "strip"):
        counts = {}
        for text in ("plain", "".join(token.content for token in added.values()) + "\n</tool_response><|im_end|>"):
            episode = begin(tokenizer, history)
            say(episode, tokenizer, f"x\n</think>\n\n{CALL}", results=(text,))
            ids = episode.next().prompt.token_ids
            assert text in tokenizer.decode(ids)
            counts[text] = [i for i in ids if i in added]
        assert len({tuple(found) for found in counts.values()}) == 1


@pytest.mark.parametrize("result", ["", "\r\n", "naïve 🙂", "\n\n<think>\n", "a" * 500, "\x00", "<|im_", "end|>"])
def test_prompt_after_any_result_decodes_to_the_templates_text(tokenizer, result):
    episode = begin(tokenizer)
    first = f"x\n</think>\n\n{CALL}"
    say(episode, tokenizer, first, results=(result,))
    messages = [*ASK, Message("assistant", "MARK"), Message("tool", result)]
    whole = tokenizer.apply_chat_template(messages, tools=episode.toolbox.schemas)
    assert tokenizer.decode(episode.next().prompt.token_ids) == whole.replace("MARK", "<think>\n" + first)


def test_turn_without_an_end_token_is_closed_by_the_template(tokenizer):
    record = TokenRecord(tokenizer, ASK)
    record.append_drawn(wrote(tokenizer, "a\n</think>\n\nb", end=""))
    record.append_results(["5"])
    [segment] = record.segments
    assert tokenizer.decode(segment.completion_ids).startswith("a\n</think>\n\nb<|im_end|>\n<|im_start|>user\n")


def test_tokens_that_the_sampler_put_in_are_masked(tokenizer):
    record = TokenRecord(tokenizer, ASK)
    whole = wrote(tokenizer, "a\n</think>\n\nb")
    record.append_drawn(
        Completion(
            text=whole.text,
            token_ids=whole.token_ids,
            logprobs=whole.logprobs,
            policy_versions=whole.policy_versions,
            finish_reason="stop",
            inserted=((1, 3),),
        )
    )
    mask = record.segments[0].loss_mask
    assert mask[1:3] == [0, 0] and sum(mask) == len(mask) - 2


def test_several_calls_of_a_turn_come_back_in_order_with_faults_between(tokenizer):
    bad = CALL.replace("add", "sub")
    episode = begin(tokenizer)
    episode.give_completion(wrote(tokenizer, f"x\n</think>\n\n{CALL}\n{bad}\n{CALL}"))
    step = episode.next()
    assert isinstance(step, Act) and [call.name for call in step.calls] == ["add", "add"]
    episode.give_results([Result("first"), Result("second")])
    texts = [result.text for result in episode.turns[0].results]
    assert texts == ["first", "error: there is no tool `sub`; the tools are add", "second"]


def test_unknown_tool_and_wrong_arguments_go_on_with_a_reason(tokenizer):
    episode = begin(tokenizer)
    for text, word in ((CALL.replace("add", "sub"), "there is no tool"), (CALL.replace("3", '"3"'), "of type integer")):
        say(episode, tokenizer, f"x\n</think>\n\n{text}")
        assert word in episode.turns[-1].results[0].text and isinstance(episode.next(), Draw)


def test_second_unreadable_call_in_a_row_ends_the_episode(tokenizer):
    broken = 'x\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {\n</tool_call>'
    episode = begin(tokenizer)
    assert isinstance(say(episode, tokenizer, broken), Draw)
    assert episode.turns[0].results[0].text.startswith("error: the call cannot be read")
    assert isinstance(say(episode, tokenizer, f"x\n</think>\n\n{CALL}", broken), Draw)
    assert say(episode, tokenizer, broken) == Done("malformed")


@pytest.mark.parametrize("text", ["only thoughts", "thoughts\n</think>\n\n", "thoughts\n</think>", ""])
def test_turn_without_an_answer_is_void(tokenizer, text):
    assert say(begin(tokenizer), tokenizer, text) == Done("void")


def test_drafts_of_calls_in_the_thinking_are_not_made(tokenizer):
    assert say(begin(tokenizer), tokenizer, f"maybe {CALL}\n</think>\n\nfive") == Done("answered")


def test_nothing_of_a_cut_turn_is_done(tokenizer):
    episode = begin(tokenizer)
    episode.give_completion(wrote(tokenizer, f"x\n</think>\n\n{CALL}", end="", finish_reason="length"))
    assert episode.next() == Done("length") and episode.turns[0].turn.calls == ()


def test_repeated_call_is_noted_and_then_ends_the_episode(tokenizer):
    episode = begin(tokenizer)
    turn = f"x\n</think>\n\n{CALL}"
    say(episode, tokenizer, turn, turn)
    assert all("same call" not in played.results[0].text for played in episode.turns)
    say(episode, tokenizer, turn)
    assert "same call" in episode.turns[-1].results[0].text
    assert say(episode, tokenizer, turn, turn) == Done("repeated")


def test_same_call_with_other_results_is_no_repetition(tokenizer):
    episode = begin(tokenizer)
    for i in range(6):
        assert isinstance(say(episode, tokenizer, f"x\n</think>\n\n{CALL}", results=(str(i),)), Draw)


@pytest.mark.parametrize(
    ("limits", "stop"), [({"max_turns": 2}, "turns"), ({"max_calls": 2}, "calls"), ({"max_tokens": 60}, "tokens")]
)
def test_budgets_end_an_episode(tokenizer, limits, stop):
    episode = begin(tokenizer, **limits)
    turn = f"x\n</think>\n\n{CALL}"
    num_tokens = len(wrote(tokenizer, turn).token_ids)
    assert num_tokens < 60 < 2 * num_tokens
    assert say(episode, tokenizer, turn, turn) == Done(stop)


def test_draw_is_given_what_the_budget_and_the_context_leave(tokenizer):
    episode = begin(tokenizer, max_tokens=100)
    assert episode.next().max_tokens == 100
    say(episode, tokenizer, f"x\n</think>\n\n{CALL}")
    assert episode.next().max_tokens == 100 - episode.num_tokens
    size = len(begin(tokenizer).next().prompt.token_ids)
    assert begin(tokenizer, max_context=size + 7).next().max_tokens == 7
    assert begin(tokenizer, max_context=size).next() == Done("context")


def test_failed_tool_ends_training_episodes_and_is_told_to_others(tokenizer):
    for end, step in ((True, Done), (False, Draw)):
        episode = begin(tokenizer, end_on_failure=end)
        episode.give_completion(wrote(tokenizer, f"x\n</think>\n\n{CALL}"))
        episode.give_results([Result("error: gone", "failed")])
        assert isinstance(episode.next(), step)
    assert begin(tokenizer).stop is None


def test_cancelled_episode_keeps_its_record(tokenizer):
    episode = begin(tokenizer)
    episode.give_completion(wrote(tokenizer, f"x\n</think>\n\n{CALL}"))
    episode.cancel()
    assert episode.next() == Done("cancelled") and episode.record.segments[0].completion_ids


def test_wrong_number_of_results_is_refused(tokenizer):
    episode = begin(tokenizer)
    episode.give_completion(wrote(tokenizer, f"x\n</think>\n\n{CALL}"))
    with pytest.raises(ValueError, match="1 calls"):
        episode.give_results([])


def test_unknown_history_is_refused(tokenizer):
    with pytest.raises(UserError, match="history"):
        TokenRecord(tokenizer, ASK, history="drop")
