"""From a request's parameters to its `Guide`: bad words tokenised, scripts as masks, forms as grammars.

All of it may take seconds, so it is done in threads beside the engine's: nothing here is changed but caches.

Public: GuideMaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from functools import lru_cache

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer
from openqwq.types import SamplingParams

from .bad_words import BadWords
from .structured_outputs import GrammarMaker, Guide
from .writing_systems import forbidden_tokens


class GuideMaker:
    """Makes the guides of one engine's requests; `make` may be called from any thread.

    stop_ids: end tokens.   end_id: of `</think>`.
    """

    def __init__(
        self,
        tokenizer: object,
        vocab_size: int,
        device: torch.device,
        *,
        stop_ids: Seq[int],
        end_id: int | None,
    ):
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else None
        self.vocab_size, self.device = vocab_size, device
        self.stop_ids, self.end_id = tuple(i for i in stop_ids if 0 <= i < vocab_size), end_id
        self._grammars = GrammarMaker(self._tokenizer, vocab_size, stop_ids) if self._tokenizer else None
        self._masks = lru_cache(maxsize=16)(self._mask)

    def make(self, params: SamplingParams) -> Guide:
        """For the request's samples to start from. Raises UserError for a form that no answer can have."""
        if self._tokenizer is None or self._grammars is None:
            raise UserError("bad words, scripts and structured outputs need a tokenizer, and this engine has none")
        return Guide(
            bad_words=BadWords(bad_word_ids(self._tokenizer, params.bad_words)) if params.bad_words else None,
            thinking_mask=self._script_mask(params.thinking_scripts),
            answer_mask=self._script_mask(params.answer_scripts),
            grammar=self._grammars.make(params.structured) if params.structured else None,
            stop_ids=() if params.ignore_eos else self.stop_ids,
            end_id=self.end_id,
        )

    def _script_mask(self, scripts: Iterable[str]) -> Tensor | None:
        return self._masks(tuple(sorted(set(scripts)))) if scripts else None

    def _mask(self, scripts: tuple[str, ...]) -> Tensor:
        assert self._tokenizer is not None
        mask = torch.zeros(self.vocab_size, device=self.device)
        mask[forbidden_tokens(scripts, self.vocab_size, self._tokenizer.token_bytes)] = -torch.inf
        return mask


def bad_word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> list[list[int]]:
    """Each word as it is written at the start of a text and behind a space."""
    return tokenizer.encode_batch([text for word in words for text in dict.fromkeys((word, " " + word.lstrip()))])
