"""`LLM`: a model by its path, and completions of texts or conversations, with vLLM's names.

llm = LLM("path/or/preset")
outputs = llm.generate(["1+1="], SamplingParams(temperature=0.6, max_tokens=64))
outputs[0].outputs[0].text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from openqwq.errors import UserError
from openqwq.model import HUB_NAMES, PRESETS, Quantization, load_model, resolve_folder
from openqwq.tokenizer import Tokenizer
from openqwq.types import Message, Prompt, SamplingParams

from .engine import Engine, RequestOutput

Conversation = Sequence[Message | Mapping[str, Any]]


class LLM:
    """A model, its tokenizer and an engine.

    model:   a Hugging Face folder, a hub name, or a preset; `tiny` has random weights and no tokenizer.
    device:  None: the first GPU when there is one, else the CPU.
    dtype:   None: the one that config.json names on a GPU, float32 on a CPU.
    quantization: "bf16", "int8" or "int4" rounds the weights as they are read: a half, a quarter, an eighth of
             float32's memory. None: as the folder holds them. 4-bit AWQ and GPTQ layers stay packed in any case.
    options: of `Engine`, e.g. `max_model_len=4096`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        quantization: Quantization | None = None,
        seed: int = 0,
        **options: Any,
    ):
        if quantization not in (None, *get_args(Quantization)):
            raise UserError(f"`quantization` is {quantization!r}, but must be 'bf16', 'int8', 'int4' or None")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if dtype is None and device == "cpu" else dtype
        self.tokenizer = _load_tokenizer(model, tokenizer)
        network = load_model(model, device=device, dtype=dtype, seed=seed, quantization=quantization or "stored")
        eos_token_ids = _end_tokens(self.tokenizer, network.config.eos_token_id)
        self.engine = Engine(network, self.tokenizer, eos_token_ids=eos_token_ids, seed=seed, **options)

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Completions of each prompt, in order; a prompt is a text or its token ids.

        A prompt that does not fit comes back with `finish_reason` "abort" and the reason in `error`.
        """
        texts: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = [self._token_ids(prompt) for prompt in texts]
        params = SamplingParams() if sampling_params is None else sampling_params
        results = self.engine.generate([Prompt(token_ids) for token_ids in ids], params)
        return [
            RequestOutput(str(i), text if isinstance(text, str) else None, token_ids, completions)
            for i, (text, token_ids, completions) in enumerate(zip(texts, ids, results, strict=True))
        ]

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The assistant's turn in one conversation or in each of several, under the model's chat template."""
        several = bool(messages) and not isinstance(messages[0], (Message, Mapping))
        conversations: Sequence[Any] = messages if several else [messages]
        tokenizer = self.require_tokenizer()
        texts = [tokenizer.apply_chat_template(conversation) for conversation in conversations]
        return self.generate(texts, sampling_params)

    def _token_ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        return tuple(self.require_tokenizer().encode(prompt) if isinstance(prompt, str) else prompt)

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where the model has none."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", hint="give prompts as token ids, or `tokenizer=` a folder")
        return self.tokenizer


def _load_tokenizer(model: str | Path, tokenizer: str | Path | None) -> Tokenizer | None:
    """The tokenizer beside the weights, or the one that was asked for; None for a preset without weights."""
    if tokenizer is not None:
        return Tokenizer.load(tokenizer)
    if str(model) in PRESETS and str(model) not in HUB_NAMES and not Path(model).exists():
        return None
    return Tokenizer.load(resolve_folder(model))


def _end_tokens(tokenizer: Tokenizer | None, from_config: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The tokenizer's end tokens and the config's: QwQ-32B ends turns with either of two."""
    ids = list(tokenizer.eos_token_ids) if tokenizer else []
    if from_config is not None:
        ids += [from_config] if isinstance(from_config, int) else from_config
    return tuple(dict.fromkeys(ids))
