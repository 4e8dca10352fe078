"""Logits and gradients of our decoder against `transformers`, and of each of its paths against the plain one."""

import pytest
import torch

from openqwq.kernels import REFERENCE, choose_ops
from openqwq.kernels.reference import mix_by_products, mix_fused
from openqwq.model import DecoderConfig, KVCache, PagedAttention, PagedChunk, YarnScaling, create_model

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers (dev extra)")

SMALL = DecoderConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rope_theta=10000.0,
)
CONFIGS = {
    "untied": SMALL,
    "tied": SMALL.replace(tie_word_embeddings=True),
    "one kv head": SMALL.replace(num_key_value_heads=1, rms_norm_eps=1e-5),
    "all kv heads": SMALL.replace(num_key_value_heads=6),
    "yarn": SMALL.replace(rope_scaling=YarnScaling(factor=4.0, original_max_position_embeddings=64)),
}
LENGTHS = [5, 23, 1, 22, 9]


def random_model(config):
    """Weights large enough that every bias, norm and head matters."""
    model = create_model(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def their_model(model):
    config = transformers.Qwen2Config(**model.config.to_dict())
    theirs = transformers.Qwen2ForCausalLM(config).eval()
    theirs.load_state_dict(model.state_dict(), strict=not model.config.tie_word_embeddings)
    return theirs


def random_ids(*shape):
    return torch.randint(0, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(3))


def largest_difference(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    model = random_model(CONFIGS[request.param])
    return model, their_model(model)


@pytest.fixture(scope="module")
def model():
    return random_model(SMALL)


@torch.no_grad()
def test_plain_forward_equals_transformers(pair):
    ours, theirs = pair
    ids = random_ids(3, 40)
    assert largest_difference(ours(ids), theirs(ids).logits) <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_forward_equals_transformers_on_real_tokens(pair, side):
    ours, theirs = pair
    ids = random_ids(len(LENGTHS), max(LENGTHS))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, slice(None, length) if side == "right" else slice(-length, None)] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    got = ours(ids, attention_mask=mask)
    assert largest_difference(got[mask.bool()], expected[mask.bool()]) <= 1e-4
    assert got[~mask.bool()].abs().max() == 0


@torch.no_grad()
def test_packed_documents_equal_transformers_one_by_one(pair):
    ours, theirs = pair
    documents = random_ids(sum(LENGTHS)).split(LENGTHS)
    packed = ours(torch.cat(documents), lengths=LENGTHS).split(LENGTHS)
    for got, document in zip(packed, documents, strict=True):
        assert largest_difference(got, theirs(document[None]).logits[0]) <= 1e-4


class PagedRun:
    """Sequences over a paged cache: each has the blocks that `tables` [S, W] names."""

    def __init__(self, model, tables: list[list[int]], ops=None):
        self.model, self.ops = model, model.ops if ops is None else ops
        self.tables = torch.tensor(tables, dtype=torch.int32)
        self.cache = KVCache(model.config, num_slots=int(self.tables.max()) + 2, max_length=16)

    def chunks(self, parts: dict[int, torch.Tensor], starts: dict[int, int]) -> list[torch.Tensor]:
        """Logits of some sequences' next tokens, from positions `starts` on, in one pass."""
        own = [PagedChunk(starts[row], len(ids), self.tables[row].tolist()) for row, ids in parts.items()]
        nobody = torch.zeros(0, dtype=torch.int64)
        context = PagedAttention(self.cache, self.tables[:0], nobody, ops=self.ops, longest=0, chunks=own)
        logits = self.model(torch.cat(list(parts.values())), context=context)
        return list(logits.split([len(ids) for ids in parts.values()]))

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Logits [R, V] of one token for each of some sequences."""
        longest = int(positions.max()) + 1
        context = PagedAttention(self.cache, self.tables[rows], positions, ops=self.ops, longest=longest)
        return self.model(tokens, context=context)


OPS = [pytest.param(REFERENCE, id="reference"), pytest.param(choose_ops("cpu", torch.float32), id="cpu")]


@torch.no_grad()
@pytest.mark.parametrize("ops", OPS)
def test_cached_decoding_equals_transformers_token_by_token(pair, ops):
    ours, theirs = pair
    rows, prompts = random_ids(3, 30), [4, 11, 7]
    expected = theirs(rows).logits
    run = PagedRun(ours, [[0, 1], [2, 3], [4, 5]], ops)
    parts = {i: rows[i, :n] for i, n in enumerate(prompts)}
    for row, logits in enumerate(run.chunks(parts, dict.fromkeys(parts, 0))):
        assert largest_difference(logits, expected[row, : prompts[row]]) <= 1e-4
    positions = torch.tensor(prompts)
    for _ in range(19):
        step = run.step(rows[torch.arange(3), positions], positions, [0, 1, 2])
        assert largest_difference(step, expected[torch.arange(3), positions]) <= 1e-4
        positions = positions + 1


@torch.no_grad()
@pytest.mark.parametrize("ops", OPS)
def test_sequences_in_scattered_blocks_decode_like_whole_ones(model, ops):
    ids = random_ids(2, 36)
    run = PagedRun(model, [[7, 2, 5], [0, 6, 3]], ops)
    run.chunks({0: ids[0, :20], 1: ids[1, :34]}, {0: 0, 1: 0})
    step = run.step(ids[[0, 1], [20, 34]], torch.tensor([20, 34]), [0, 1])
    assert largest_difference(step, model(ids)[[0, 1], [20, 34]]) <= 1e-4


@torch.no_grad()
def test_both_ways_to_mix_one_query_a_row_agree_with_softmax_by_hand():
    generator = torch.Generator().manual_seed(5)
    q, keys, values = (torch.randn(6, n, 8, generator=generator) for n in (3, 11, 11))
    hidden = torch.arange(11) > torch.tensor([0, 3, 10, 5, 7, 2])[:, None]
    mask = torch.zeros(6, 1, 11).masked_fill(hidden[:, None], -torch.inf)
    weights = torch.exp(torch.einsum("xgd,xtd->xgt", q, keys) / 8**0.5) * ~hidden[:, None]
    expected = torch.einsum("xgt,xtd->xgd", weights / weights.sum(-1, keepdim=True), values)
    assert largest_difference(mix_by_products(q, keys, values, mask), expected) <= 1e-5
    assert largest_difference(mix_fused(q, keys, values, mask), expected) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("ops", OPS)
def test_a_prompt_in_two_parts_gives_the_logits_of_the_whole(model, ops):
    ids = random_ids(2, 20)
    run = PagedRun(model, [[0, 1], [2, 3]], ops)
    run.chunks({1: ids[0, :7], 0: ids[1, :12]}, {0: 0, 1: 0})
    first, second = run.chunks({1: ids[0, 7:], 0: ids[1, 12:15]}, {0: 12, 1: 7})
    expected = model(ids)
    assert largest_difference(first, expected[0, 7:]) <= 1e-4
    assert largest_difference(second, expected[1, 12:15]) <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("ops", OPS)
def test_a_copied_block_continues_like_its_source(model, ops):
    ids = random_ids(8)
    run = PagedRun(model, [[0], [1], [2], [3]], ops)
    run.chunks({0: ids[:7]}, {0: 0})
    run.cache.copy_slots([0, 0], [1, 3], 7)
    step = run.step(ids[7].repeat(4), torch.full((4,), 7), [0, 1, 2, 3])
    assert largest_difference(step[[1, 3]], step[[0, 0]]) == 0
    assert largest_difference(step[2], step[0]) > 1e-2  # the block that got no copy must not look the same


@torch.no_grad()
@pytest.mark.parametrize("ops", OPS)
def test_a_reused_block_shows_nothing_of_its_former_sequence(model, ops):
    run = PagedRun(model, [[0, 1]], ops)
    run.chunks({0: random_ids(30)}, {0: 0})
    ids = random_ids(6).flip(0)
    run.chunks({0: ids[:5]}, {0: 0})
    step = run.step(ids[5:], torch.tensor([5]), [0])
    assert largest_difference(step[0], model(ids[None])[0, 5]) <= 1e-4


def test_packed_gradients_equal_the_sum_of_separate_ones(model):
    documents = random_ids(sum(LENGTHS)).split(LENGTHS)
    weights = torch.randn(sum(LENGTHS), SMALL.vocab_size, generator=torch.Generator().manual_seed(4))
    (model(torch.cat(documents), lengths=LENGTHS) * weights).sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for document, weight in zip(documents, weights.split(LENGTHS), strict=True):
        (model(document[None])[0] * weight).sum().backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()
        assert largest_difference(packed[name], parameter.grad) <= 1e-5 * scale, name
    model.zero_grad()


def test_gradients_equal_transformers(pair):
    ours, theirs = pair
    ids = random_ids(2, 30)
    ours(ids).logsumexp(-1).sum().backward()
    theirs(ids).logits.logsumexp(-1).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        assert largest_difference(parameter.grad, expected[name].grad) <= 1e-4 * scale, name
    ours.zero_grad()
    theirs.zero_grad()


@torch.no_grad()
def test_tokens_see_neither_later_tokens_nor_other_documents(model):
    ids = random_ids(30)
    before = model(ids, lengths=[10, 12, 8])
    ids[15] = (ids[15] + 1) % SMALL.vocab_size
    changed = (model(ids, lengths=[10, 12, 8]) - before).abs().amax(1) > 1e-3
    assert changed.nonzero().flatten().tolist() == list(range(15, 22))


def test_wrong_calls_are_refused(model):
    with pytest.raises(ValueError, match="either `lengths` or `context`"):
        model(random_ids(5))
    with pytest.raises(ValueError, match="5 tokens were given"):
        model(random_ids(5), lengths=[2, 2])
    with pytest.raises(ValueError, match="must come before"):
        PagedRun(model, [[0, 1], [2, 3]]).chunks({0: random_ids(3), 1: random_ids(4)}, {0: 2, 1: 0})
    with pytest.raises(ValueError, match="non-empty"):
        model(random_ids(0), lengths=[])


@torch.no_grad()
def test_bfloat16_is_as_near_to_float32_as_that_of_transformers(model):
    ids = random_ids(4, 20)
    ours = create_model(SMALL, seed=0, dtype=torch.bfloat16)
    ours.load_state_dict(model.state_dict())
    config = transformers.Qwen2Config(**SMALL.to_dict())
    theirs = transformers.Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    theirs.load_state_dict(model.state_dict())
    exact = model(ids)
    our_error = (ours(ids).float() - exact).square().mean()
    their_error = (theirs(ids).logits.float() - exact).square().mean()
    assert ours(ids).dtype == torch.bfloat16
    assert our_error <= 1.5 * their_error
