"""A recipe that names no algorithm trains as it always did, bit for bit."""

import pytest
import torch

from openqwq.train.optim.logprobs import chunked_logprobs
from openqwq.train.packing import split_microbatches


def plain_loss(model, attempts, aggregation):
    """The clipped loss of one mini-batch, written out: longest rollouts first, 40 tokens a pass."""
    kept = [a for a in attempts if a.verdict.status != "unjudged"]
    rows = [[*a.rollout.prompt_ids, *a.rollout.completion_ids] for a in kept]
    trained = [len(a.rollout.completion_ids) for a in kept]
    for part in split_microbatches([len(row) for row in rows], 40):
        ids = torch.tensor([token for i in part for token in rows[i]])
        starts = torch.tensor([0, *(len(rows[i]) for i in part)]).cumsum(0).tolist()
        where = [
            s + len(rows[i]) - trained[i] + k for i, s in zip(part, starts, strict=False) for k in range(trained[i])
        ]
        hidden = model.hidden_states(ids, lengths=[len(rows[i]) for i in part])
        head = model.model.embed_tokens.weight
        logprobs, _ = chunked_logprobs(hidden[torch.tensor(where) - 1], head, ids[where], temperature=1.2)
        old = torch.tensor([x for i in part for x in kept[i].rollout.rollout_logprobs])
        advantages = torch.tensor([kept[i].advantage for i in part for _ in range(trained[i])])
        share = {i: 1 / sum(trained) if aggregation == "token" else 1 / (trained[i] * len(kept)) for i in part}
        weights = torch.tensor([share[i] for i in part for _ in range(trained[i])])
        ratio = (logprobs - old).exp()
        losses = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
        (losses * weights).sum().backward()


def plain_training(world, folder, stage):
    """Three steps of group advantages, mini-batches, clipped loss and AdamW, without the package's trainer."""
    model = world.model()
    collector = world.collector(folder, stage, world.engine(model))
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    for step in range(stage.steps):
        teaching = [g for g in collector.collect(step).groups if any(a.advantage for a in g)]
        for number in range(min(stage.updates_per_batch, len(teaching))):
            optimizer.zero_grad()
            part = [a for group in teaching[number :: stage.updates_per_batch] for a in group]
            plain_loss(model, part, stage.loss_aggregation)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * (1 - step / (stage.steps - 1))
            optimizer.step()
    return world.weights(model)


@pytest.mark.parametrize(("updates", "aggregation"), [(1, "token"), (3, "sequence")])
def test_default_algorithm_is_the_plain_one_bit_for_bit(world, tmp_path, monkeypatch, updates, aggregation):
    monkeypatch.setattr("openqwq.train.packing.SHARED_BELOW", 0.0)  # a prompt computed once rounds differently
    plain = {"samples_per_prompt": 6, "temperature": 1.2, "tokens_per_microbatch": 40}
    stage = world.stage(**plain, updates_per_batch=updates, loss_aggregation=aggregation)
    expected = plain_training(world, tmp_path / "plain", stage)
    model, _ = world.train_rl(tmp_path / "ours", stage)
    assert not world.same_weights(expected, world.weights(world.model()))
    assert world.same_weights(world.weights(model), expected)
