"""Thinking of a model whose vocabulary lacks the tags: they are spelled out of several tokens."""

import pytest

from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.model import create_model, preset
from openqwq.tokenizer import Tokenizer, train_tokenizer
from openqwq.types import Prompt, SamplingParams


def test_thinking_is_bounded_where_the_vocabulary_lacks_its_tags():
    tokenizer = train_tokenizer(["nothing to merge"], 282)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    model = create_model(preset("tiny").replace(vocab_size=288, max_position_embeddings=256, **shape), seed=3)
    text = tokenizer.backend.to_str().replace('"<think>"', '"<zzz>"').replace('"</think>"', '"</zzz>"')
    plain = Tokenizer(type(tokenizer.backend).from_str(text))
    assert plain.token_id("</think>") is None
    engine = Engine(model, plain, max_num_seqs=4, closing_text="\n</think>\n\n")
    params = SamplingParams(
        top_p=1.0, top_k=0, temperature=1.0, max_tokens=40, seed=2, ignore_eos=True, thinking_budget=3
    )
    [[sample]] = engine.generate([Prompt(tuple(plain.encode("<|im_start|>assistant\n<think>\n")))], params)
    closing = engine.reasoning.closing_ids
    assert list(sample.token_ids[3 : 3 + len(closing)]) == closing
    with pytest.raises(UserError, match="ends inside a thinking"):
        engine.add_request(plain.encode("<|im_start|>assistant\n"), params)
