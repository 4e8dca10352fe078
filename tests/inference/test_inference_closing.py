"""A closing text that does not fit: the sample ends within it, and nothing of it counts as cached."""

from pathlib import Path

import pytest
import torch

from openqwq.inference import Engine
from openqwq.model import load_model
from openqwq.tokenizer import Tokenizer
from openqwq.types import Message, Prompt, SamplingParams

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
@pytest.mark.parametrize("max_tokens", [18, 40, 54])
def test_tokens_put_in_at_the_end_are_computed_when_a_later_prompt_begins_with_them(max_tokens):
    model, tokenizer = load_model(BASE, dtype=torch.float32), Tokenizer.load(BASE)
    prompt = tuple(tokenizer.encode_chat((Message("user", "What is 13 * 27?"),)))
    params = SamplingParams(n=6, temperature=1.0, max_tokens=max_tokens, seed=3, thinking_budget=8)
    engine = Engine(model, tokenizer)
    (first,) = engine.generate([Prompt(prompt)], params)
    first = [c for c in first if c.inserted and c.inserted[-1][1] == len(c.token_ids) == max_tokens]
    assert first and all(c.finish_reason == "length" for c in first)
    longer = [Prompt((*prompt, *c.token_ids, 5)) for c in first]
    greedy = SamplingParams(temperature=0, max_tokens=12)
    fresh = Engine(model, tokenizer, prefix_caching=False).generate(longer, greedy)
    for ours, theirs in zip(engine.generate(longer, greedy), fresh, strict=True):
        assert ours[0].token_ids == theirs[0].token_ids
        assert ours[0].logprobs == pytest.approx(theirs[0].logprobs, abs=1e-4)
