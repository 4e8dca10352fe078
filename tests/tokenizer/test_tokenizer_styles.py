"""Prompt styles stand in the system turn, whichever form the conversation has."""

import pytest

from openqwq.errors import UserError
from openqwq.tokenizer import PROMPT_STYLES, with_style
from openqwq.types import Message

USER = {"role": "user", "content": "2 + 2?"}


def test_a_conversation_gets_a_system_turn_or_its_own_is_lengthened():
    draft = PROMPT_STYLES["draft"]
    assert with_style([Message("user", "2 + 2?")], "draft") == [{"role": "system", "content": draft}, USER]
    asked = [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, USER]
    assert with_style(asked, "draft") == [{"role": "system", "content": f"Be kind.\n\n{draft}"}, USER]
    assert with_style([{"role": "system", "content": ""}, USER], "concise")[0]["content"] == PROMPT_STYLES["concise"]


def test_without_a_style_nothing_changes_and_unknown_ones_are_refused():
    assert with_style([USER], None) == [USER]
    with pytest.raises(UserError, match="no prompt style 'terse'"):
        with_style([USER], "terse")
