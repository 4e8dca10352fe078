"""The text of tokens as they come.

Public: StreamDecoder.
"""

from __future__ import annotations

import codecs

from .tokenizer import Tokenizer


class StreamDecoder:
    """Text of a token stream, piece by piece: characters whose bytes are cut across tokens wait for the rest.

    The pieces joined are `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Text that this token completes; may be empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left of a character that was cut off: one U+FFFD, or nothing."""
        return self._utf8.decode(b"", final=True)
