"""`LLM`: a model by its path, and completions of texts or conversations, with vLLM's names.

llm = LLM("path/or/preset")
outputs = llm.generate(["1+1="], SamplingParams(temperature=0.6, max_tokens=64))
outputs[0].outputs[0].text
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from openqwq.config import EngineConfig, ModelOptions, make_config
from openqwq.errors import UserError
from openqwq.model import HUB_NAMES, PRESETS, DecoderConfig, load_model, resolve_folder
from openqwq.tokenizer import Rendered, Tokenizer, folder_end_ids
from openqwq.types import Message, SamplingParams

from .engine import Engine
from .outputs import RequestOutput
from .params import recommended_sampling
from .speculative_config import Speculation, SpeculativeConfig, read_speculation
from .windows import choose_windows, read_window

Conversation = Sequence[Message | Mapping[str, Any]]
OnePrompt = str | Sequence[int] | Mapping[str, Any]


class LLM:
    """A model, its tokenizer and an engine.

    model:     a Hugging Face folder, a GGUF file, a hub name, or a preset; `tiny` has random weights and no tokenizer.
    tokenizer: the folder of another tokenizer; None: the model's.
    config:    how the engine runs; its `seed` also decides a preset's random weights.
    options:   of `openqwq.config.ModelOptions` and `EngineConfig`, which explain each, e.g. `max_model_len=4096`;
               with `rope_scaling`, `yarn_per_request` is on unless it is given.

    default_sampling_params: what the folder's generation_config.json recommends, or else `SamplingParams()`.
    Raises UserError naming the nearest option for one that does not exist.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | Path | None = None,
        config: EngineConfig | None = None,
        **options: Any,
    ):
        known = {field.name for field in fields(ModelOptions)}
        loading = make_config(ModelOptions(), {name: options.pop(name) for name in known & options.keys()})
        if loading.rope_scaling is not None:
            options.setdefault("yarn_per_request", True)
        config = make_config(config or EngineConfig(), options, ModelOptions)
        speculative_config, window = loading.speculative_config, loading.attention_window
        speculative = read_speculation(speculative_config) if speculative_config else None
        choice = read_window(window) if window else None
        device = _read_device(loading.device)
        dtype = _read_dtype(loading.dtype, device)
        folder, self._name = _find(model), str(model)
        self.default_sampling_params = SamplingParams(**recommended_sampling(folder) if folder else {})
        vocabulary, kept = tokenizer or folder, loading.quantization or "stored"
        self.tokenizer = Tokenizer.load(vocabulary) if vocabulary else None
        network = load_model(folder or model, device=device, dtype=dtype, seed=config.seed, quantization=kept)
        if loading.rope_scaling is not None:
            network.rescale(loading.rope_scaling)
        if speculative is not None:
            config = replace(config, speculation=_load_speculation(speculative, self.tokenizer, device, dtype))
        if choice is not None:
            config = replace(config, attention_windows=choose_windows(choice, network, self.tokenizer, folder))
        if config.eos_token_ids is None:
            config = replace(config, eos_token_ids=_end_tokens(self.tokenizer, folder, network.config))
        self.engine = Engine(network, self.tokenizer, config)

    def generate(
        self,
        prompts: OnePrompt | Sequence[OnePrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Completions of each prompt, in order; a prompt is a text or its token ids (or vLLM's object with either).

        sampling_params: for all or one for each; None: `default_sampling_params`.
        A text's control tokens count, as in vLLM: it is a whole prompt, not a user's words.
        A prompt that does not fit, or is no Unicode, comes back with `finish_reason` "abort" and the reason in `error`.
        """
        texts = _read_prompts(prompts)
        params = self.default_sampling_params if sampling_params is None else sampling_params
        if any(isinstance(prompt, str) for prompt in texts):
            self.require_tokenizer()
        return self._complete([(prompt if isinstance(prompt, str) else None, prompt) for prompt in texts], params)

    def _complete(
        self,
        prompts: Sequence[tuple[str | None, str | Sequence[int] | Rendered]],
        params: SamplingParams | Sequence[SamplingParams],
    ) -> list[RequestOutput]:
        """Completions of prompts, each with the text that its output shows."""
        ids, errors = [], {}
        for position, (_, prompt) in enumerate(prompts):
            try:
                ids.append(self._token_ids(prompt))
            except UserError as error:
                ids.append(())  # which the engine refuses
                errors[position] = error.message
        outputs = []
        for position, ((text, _), output) in enumerate(zip(prompts, self.engine.run(ids, params), strict=True)):
            samples = [replace(sample, error=errors.get(position, sample.error)) for sample in output.outputs]
            outputs.append(replace(output, request_id=str(position), prompt=text, outputs=samples))
        return outputs

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The assistant's turn in one conversation or in each of several, under the model's chat template.

        Control tokens spelled in messages stay text; `generate` takes a prompt that is to have them.
        """
        several = bool(messages) and not isinstance(messages[0], (Message, Mapping))
        conversations: Sequence[Any] = messages if several else [messages]
        prompts = [self.require_tokenizer().render(conversation) for conversation in conversations]
        params = self.default_sampling_params if sampling_params is None else sampling_params
        return self._complete([(prompt.text, prompt) for prompt in prompts], params)

    def _token_ids(self, prompt: str | Sequence[int] | Rendered) -> tuple[int, ...]:
        if isinstance(prompt, Rendered):
            return tuple(self.require_tokenizer().encode(prompt.text, prompt.breaks))
        return tuple(self.require_tokenizer().encode(prompt) if isinstance(prompt, str) else prompt)

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where the model has none."""
        if self.tokenizer is None:
            raise UserError(
                f"`{self._name}` is a shape with random weights and has no tokenizer",
                hint="give a model's folder, e.g. runs/tiny; or prompts as token ids, or `tokenizer=` a folder",
            )
        return self.tokenizer


def _read_device(device: str | None) -> str:
    """The first GPU where none is named. Raises UserError for one that is not there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not there or (number and not (number.isdecimal() and int(number) < there)):
        raise UserError(f"`device` is {device!r}, but here are the CPU and {torch.cuda.device_count()} CUDA devices")
    return device


def _read_dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype | None:
    """None for config.json's own. Raises UserError for a name that is no dtype of weights."""
    if dtype in (None, "auto"):
        return torch.float32 if device == "cpu" else None
    read = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(read, torch.dtype) or not read.is_floating_point:
        raise UserError(f"`dtype` is {dtype!r}, but must be 'float32', 'bfloat16', 'float16' or 'auto'")
    return read


def _read_prompts(prompts: OnePrompt | Sequence[OnePrompt]) -> list[str | Sequence[int]]:
    """One prompt or several, each as its text or token ids. Raises ValueError for what is none."""
    alone = isinstance(prompts, (str, Mapping)) or (len(prompts) > 0 and isinstance(prompts[0], int))
    several: Any = [prompts] if alone else prompts
    read = [p.get("prompt_token_ids", p.get("prompt")) if isinstance(p, Mapping) else p for p in several]
    for prompt in read:
        if not isinstance(prompt, Iterable):
            raise ValueError(f"a prompt is a text or a list of token ids, but this is {prompt!r}")
    return read


def _find(model: str | Path) -> Path | None:
    """The folder of its weights, downloaded if need be; None for a preset that none are published for."""
    is_shape = str(model) in PRESETS and str(model) not in HUB_NAMES and not Path(model).exists()
    return None if is_shape else resolve_folder(model)


def _load_speculation(
    config: SpeculativeConfig, tokenizer: Tokenizer | None, device: str, dtype: torch.dtype | None
) -> Speculation:
    """With the draft model's weights. Raises UserError where its tokenizer is another one."""
    if config.model is None:
        return Speculation(num_tokens=config.num_tokens)
    folder = _find(config.model)
    own = Tokenizer.load(folder) if folder else None
    if own is not None and tokenizer is not None and own.backend.get_vocab() != tokenizer.backend.get_vocab():
        raise UserError(
            f"the draft model {config.model} has another vocabulary than the model that it guesses for",
            hint="take a smaller model of the same family",
        )
    model = load_model(folder or config.model, device=device, dtype=dtype)
    return Speculation(num_tokens=config.num_tokens, model=model, rejection=config.rejection)


def _end_tokens(tokenizer: Tokenizer | None, folder: Path | None, config: DecoderConfig) -> tuple[int, ...]:
    """The tokenizer's end tokens and the model folder's, which may be another folder; a preset's without one."""
    named = config.eos_token_id
    own = [] if named is None else [named] if isinstance(named, int) else list(named)
    ids = [*(tokenizer.eos_token_ids if tokenizer else ()), *(folder_end_ids(folder) if folder else own)]
    return tuple(dict.fromkeys(i for i in ids if 0 <= i < config.vocab_size))
