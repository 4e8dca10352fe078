"""QwQ-32B's own rope settings at a tiny width: prompts beyond the trained window of 32,768 tokens, up to 131,072."""

import pytest
import torch

from openqwq.inference import Engine
from openqwq.model import AttentionWindows, DecoderConfig, YarnScaling, create_model
from openqwq.types import Prompt, SamplingParams

TRAINED, FACTOR = 32_768, 4.0
WINDOW, SINKS = 1024, 16
V = 97


@pytest.fixture(scope="module")
def model():
    """One layer: a token's keys and values are then of itself and its position alone."""
    config = DecoderConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=40_960,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        rope_scaling=YarnScaling(factor=FACTOR, original_max_position_embeddings=TRAINED),
        initializer_range=0.3,
    )
    return create_model(config, seed=1)


class SeenTokens:
    """Full attention over the tokens that stand at these positions, every one with YaRN or none."""

    def __init__(self, positions, scaled):
        self.positions = positions
        self.scaled = torch.full(positions.shape, scaled)

    def attend(self, layer, q, k, v):
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        scores = torch.einsum("hd,khd->hk", q[-1], k) / q.shape[-1] ** 0.5
        mixed = torch.zeros_like(q)
        mixed[-1] = torch.einsum("hk,khd->hd", scores.softmax(-1), v)
        return mixed.flatten(1)


def test_prompts_beyond_the_trained_window_are_computed_with_yarn_and_shorter_ones_plainly(model):
    engine = Engine(
        model,
        eos_token_ids=(),
        max_num_seqs=2,
        yarn_per_request=True,
        attention_windows=AttentionWindows((WINDOW,), SINKS),
    )
    assert engine.max_model_len == 131_072 and engine.requests.plain_window == TRAINED
    assert [engine.requests.is_scaled(n) for n in (TRAINED, TRAINED + 1)] == [False, True]
    generator = torch.Generator().manual_seed(0)
    for length in (3_000, 40_000, 131_000):
        prompt = torch.randint(V, (length,), generator=generator)
        [[done]] = engine.generate([Prompt(tuple(prompt.tolist()))], SamplingParams(temperature=0.0, max_tokens=1))
        last = length - 1
        first = max(last // 16 - WINDOW // 16 + 1, 1) * 16
        seen = torch.cat((torch.arange(SINKS), torch.arange(first, length)))
        with torch.no_grad():
            logprobs, other = (
                model(prompt[seen], context=SeenTokens(seen, scaled))[-1].log_softmax(-1)
                for scaled in (length > TRAINED, length <= TRAINED)
            )
        assert done.token_ids == (logprobs.argmax().item(),)
        assert done.logprobs[0] == pytest.approx(logprobs.max().item(), abs=5e-4)
        assert (logprobs - other).abs().max() > 1e-3
    assert engine.pool.num_free == engine.pool.num_blocks
