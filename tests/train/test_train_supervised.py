import math

import pytest
import torch

from openqwq.config import PretrainStage, SFTStage
from openqwq.errors import UserError
from openqwq.train.algorithm.losses import sample_weights
from openqwq.train.optim.optimizer import build_optimizer
from openqwq.train.optim.update import next_token_objective, update
from openqwq.train.packing import document_sample, pack
from openqwq.train.pretrain import PieceStream, run_pretrain
from openqwq.train.sft import epoch_indices, run_sft

CHAINS = [([1, 2], [3, 4, 15]), ([5], [6, 15]), ([7, 8, 9], [10, 15]), ([2], [2, 2, 2, 2, 2, 15])]


def test_sft_loss_is_the_mean_over_the_completion_tokens_of_the_whole_step(world, tmp_path):
    model = world.model()
    expected, count = 0.0, 0
    for prompt, completion in CHAINS:
        table = model(torch.tensor([[*prompt, *completion]]))[0].detach().double().log_softmax(-1)
        for place, token in enumerate(completion, start=len(prompt)):
            expected, count = expected - table[place - 1, token].item(), count + 1
    stage = SFTStage(chains_per_step=4, tokens_per_microbatch=6, learning_rate=0.0)
    run_sft(stage, model=model, chains=CHAINS, ctx=world.context(tmp_path, "sft"))
    (row,) = world.rows(tmp_path)
    assert row["loss"] == pytest.approx(expected / count, abs=1e-5)
    assert (row["tokens_loss"], row["tokens_train"], row["sequences"]) == (13, 20, 4)


def test_sft_learns_the_completions_and_not_the_prompts(world, tmp_path):
    model = world.model()
    stage = SFTStage(chains_per_step=4, epochs=60, learning_rate=3e-2)
    run_sft(stage, model=model, chains=CHAINS, ctx=world.context(tmp_path, "sft"))
    rows = world.rows(tmp_path)
    assert (len(rows), len({tuple(row) for row in rows})) == (60, 1)
    assert rows[-1]["loss"] < 0.3
    prompt = torch.tensor([[7, 8, 9]])
    assert model(prompt)[0, -1].argmax().item() == 10
    prompt_loss = -model(prompt)[0].log_softmax(-1)[0, 8].item()
    assert prompt_loss > 1.0


def test_every_epoch_is_a_fresh_permutation_of_all_items(world, tmp_path):
    ctx = world.context(tmp_path, "sft")
    drawn = [i for step in range(7) for i in epoch_indices(10, 4, step, ctx)]
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    small = epoch_indices(3, 8, 0, ctx)
    assert sorted(small[:3]) == sorted(small[3:6]) == [0, 1, 2]


def test_an_empty_set_of_chains_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="no chains"):
        run_sft(SFTStage(), model=world.model(), chains=[], ctx=world.context(tmp_path, "sft"))


def counting(start):
    """Endless documents: number n has n % 5 + 2 tokens n % 16."""
    while True:
        yield [start % 16] * (start % 5 + 2)
        start += 1


def test_replayed_documents_are_trained_on_whole_beside_the_chains(world, tmp_path):
    model, documents = world.model(), [[5, 6, 7, 8], [9] * 50]
    rows = [*((prompt, completion) for prompt, completion in CHAINS[:2]), ([5], [6, 7, 8]), ([9], [9] * 11)]
    losses = []
    for prompt, completion in rows:
        table = model(torch.tensor([[*prompt, *completion]]))[0].detach().double().log_softmax(-1)
        losses += [-table[i - 1, t].item() for i, t in enumerate(completion, start=len(prompt))]
    stage = SFTStage(
        chains_per_step=2, replay={"text": 1.0}, replay_per_step=2, tokens_per_microbatch=12, learning_rate=0
    )
    ctx = world.context(tmp_path, "sft")
    run_sft(stage, model=model, chains=CHAINS[:2], ctx=ctx, documents=lambda start: iter(documents[start:]))
    (row,) = world.rows(tmp_path)
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert (row["sequences"], row["tokens_loss"]) == (4, 5 + 3 + 11)


def test_replay_moves_on_through_the_documents(world, tmp_path):
    asked = []

    def documents(start):
        for number, document in enumerate(counting(start), start=start):
            asked.append(number)
            yield document

    stage = SFTStage(chains_per_step=2, epochs=3, replay={"text": 1.0}, replay_per_step=3)
    run_sft(stage, model=world.model(), chains=CHAINS, ctx=world.context(tmp_path, "sft"), documents=documents)
    assert asked == list(range(18))


def test_pretraining_learns_the_documents_in_as_many_steps_as_its_tokens_need(world, tmp_path):
    stage = PretrainStage(tokens=2000, tokens_per_step=100, learning_rate=3e-2, sequence_length=8)
    model = world.model()
    run_pretrain(stage, model=model, documents=counting, ctx=world.context(tmp_path, "pretrain"))
    rows = world.rows(tmp_path)
    assert len(rows) == 20
    assert all(100 <= row["tokens_train"] < 106 for row in rows)
    assert rows[0]["loss"] > 2.0
    assert rows[-1]["loss"] < 0.2


def test_long_documents_are_cut_and_a_cursor_continues_where_it_stood():
    def documents(start):
        return iter([list(range(10)), [1, 2], [7], list(range(20, 25))][start:])

    pieces = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [1, 2], [20, 21, 22, 23]]
    assert [sample.token_ids for sample in PieceStream(documents, 4, [0, 0]).take(16)] == pieces
    for taken in range(len(pieces)):
        stream = PieceStream(documents, 4, [0, 0])
        for _ in range(taken):
            stream.take(1)
        again = PieceStream(documents, 4, stream.cursor)
        assert [again.take(1)[0].token_ids for _ in pieces[taken:]] == pieces[taken:]


def test_texts_that_end_too_early_are_an_error(world, tmp_path):
    stage = PretrainStage(tokens=100, tokens_per_step=10)
    with pytest.raises(UserError, match="end after 2 documents"):
        run_pretrain(
            stage,
            model=world.model(),
            documents=lambda start: iter([[1, 2], [3, 4]][start:]),
            ctx=world.context(tmp_path, "pretrain"),
        )


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(world):
    model = world.model()
    before = world.weights(model)
    samples = [document_sample([1, 2, 3])]
    weights = sample_weights([2], aggregation="token")

    def broken(logprobs, batch):
        return logprobs * math.nan, {}

    optimizer = build_optimizer(model, SFTStage())
    batches = pack(samples, weights, tokens_per_microbatch=10)
    with pytest.raises(UserError, match="diverged"):
        update(model, optimizer, batches, broken, learning_rate=1.0, max_grad_norm=1.0)
    assert world.same_weights(world.weights(model), before)
    update(model, optimizer, batches, next_token_objective, learning_rate=1.0, max_grad_norm=1.0)
    assert not world.same_weights(world.weights(model), before)
