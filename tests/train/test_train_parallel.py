"""Two processes train as one does: the same gradient, the same weights, one set of files."""

import os
import socket
import time
import traceback

import pytest
import torch

from openqwq.config import CorrectionConfig, CurriculumConfig, EntropyConfig, KLConfig, RewardModelStage, ValueConfig
from openqwq.errors import UserError
from openqwq.kernels import library
from openqwq.train import distributed as parallel
from openqwq.train.algorithm.losses import sample_weights
from openqwq.train.algorithm.objective import policy_objective
from openqwq.train.optim.update import accumulate, policy_logprobs
from openqwq.train.packing import Sample, pack, token_scores
from openqwq.train.reward_model import run_reward_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def on_ranks(function, folder, num_ranks=2):
    """What `function` gave on each rank, each a forked process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                with parallel.ranks():
                    torch.save(function(), folder / f"rank{rank}.pt")
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * num_ranks
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def samples_of_lengths(*lengths):
    draw = torch.Generator().manual_seed(len(lengths))

    def stream(n):
        return (-2 * torch.rand(n, generator=draw)).tolist()

    return [
        Sample(
            token_ids=torch.randint(16, (n,), generator=draw).tolist(),
            loss_mask=[0, 0] + [1] * (n - 2),
            rollout_logprobs=stream(n),
            old_logprobs=stream(n),
            ref_logprobs=stream(n),
            advantages=[float(torch.randn((), generator=draw))] * n,
        )
        for n in lengths
    ]


ALGORITHMS = {
    "dapo": {},
    "grpo": {"loss_aggregation": "sequence", "kl": KLConfig(weight=0.1)},
    "dr grpo": {"loss_aggregation": "constant"},
    "gspo": {"loss": "gspo", "loss_aggregation": "sequence"},
    "cispo": {"loss": "cispo"},
    "corrected": {"correction": CorrectionConfig(mode="mask", level="sequence", low=0.01, high=50.0)},
}


def gradients(world):
    """Of every algorithm, from the micro-batches of this rank, summed over the ranks."""
    found = {}
    samples = samples_of_lengths(5, 9, 14, 3, 8, 8, 4)
    for name, fields in ALGORITHMS.items():
        model, stage = world.model(), world.stage(max_completion_tokens=20, **fields)
        counts = [s.trained_tokens for s in samples]
        weights = sample_weights(counts, aggregation=stage.loss_aggregation, longest=20)
        batches = pack(samples, weights, tokens_per_microbatch=17)
        loss, tokens = accumulate(
            model, batches, lambda *args, own=stage: policy_objective(own, *args), entropy_weight=0.01
        )
        parallel.sum_gradients(model.parameters())
        found[name] = {
            "loss": parallel.total(loss)[0],
            "grad": torch.cat([p.grad.flatten() for p in model.parameters()]),
            "entropy": parallel.gather_tokens(tokens)["entropy"].sort().values,
            "own": sum(len(batch.targets) for batch in batches),
        }
    found["scores"] = token_scores(samples, lambda b: policy_logprobs(model, b)[0], tokens_per_microbatch=17)
    return found


def test_the_gradient_is_the_same_for_one_rank_two_and_three(world, tmp_path):
    alone = gradients(world)
    for num_ranks in (2, 3):
        ranks = on_ranks(lambda: gradients(world), tmp_path, num_ranks)
        for name in ALGORITHMS:
            assert sum(rank[name]["own"] for rank in ranks) == alone[name]["own"]
            assert all(rank[name]["own"] for rank in ranks)
            for rank in ranks:
                assert rank[name]["loss"] == pytest.approx(alone[name]["loss"], abs=1e-6)
                torch.testing.assert_close(rank[name]["grad"], alone[name]["grad"], atol=1e-6, rtol=0)
                torch.testing.assert_close(rank[name]["entropy"], alone[name]["entropy"], atol=1e-5, rtol=0)
                assert torch.equal(rank[name]["grad"], ranks[0][name]["grad"])
        for rank in ranks:
            for ours, theirs in zip(rank["scores"], alone["scores"], strict=True):
                assert ours == pytest.approx(theirs, abs=1e-5)
    assert float(alone["dapo"]["grad"].abs().max()) > 1e-2


EVERYTHING = {
    "plain": {"updates_per_batch": 2},
    "value model": {
        "advantage": "gae",
        "advantage_scale": "batch",
        "kl": KLConfig(weight=0.1),
        "value": ValueConfig(learning_rate=1e-2),
        "entropy": EntropyConfig(weight=0.01, target=2.0),
        "correction": CorrectionConfig(mode="truncate"),
    },
    "random": {"reward": "random", "curriculum": CurriculumConfig(pool=12, rest_steps=1), "top_k": 9},
}


@pytest.mark.skipif(library() is None, reason="rollouts are equal to the last bit by kernels in C")
@pytest.mark.parametrize("fields", EVERYTHING.values(), ids=EVERYTHING)
def test_a_stage_on_two_ranks_ends_like_one_on_one(world, tmp_path, fields):
    stage = world.stage(batch_invariant="on", prompts_per_step=3, checkpoint_every=2, **fields)

    def run(folder):
        return world.weights(world.train_rl(folder, stage)[0])

    alone = run(tmp_path / "alone")
    ranks = on_ranks(lambda: run(tmp_path / "two"), tmp_path)
    assert world.same_weights(*ranks)
    for name, weight in alone.items():
        torch.testing.assert_close(ranks[0][name], weight, atol=2e-5, rtol=0, msg=name)
    one, two = (world.rows(tmp_path / name) for name in ("alone", "two"))
    assert [row["updates"] for row in two] == [row["updates"] for row in one] and sum(row["updates"] for row in one)
    for ours, theirs in zip(two, one, strict=True):
        for key in ("step", "reward", "groups_sampled", "refills", "tokens_train", "tokens_generate", "policy_version"):
            assert ours[key] == theirs[key], key
        for key in ("loss", "entropy", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
        assert ours["mismatch_max"] in (0.0, None)
    assert len(world.rows(tmp_path / "two", "samples.jsonl")) == len(world.rows(tmp_path / "alone", "samples.jsonl"))


def test_a_reward_model_on_two_ranks_is_that_of_one(world, tmp_path):
    pairs = [([1, 2, n % 5, 7, 8][: 3 + n % 3], [3, 4, n % 7]) for n in range(16)]
    stage = RewardModelStage(epochs=2, pairs_per_step=6, learning_rate=1e-2, tokens_per_microbatch=16)

    def run(folder):
        ctx = world.context(folder, "rm")
        model = run_reward_model(stage, model=world.model(), pairs=pairs, held_out=pairs[:3], ctx=ctx)
        return world.weights(model)

    alone = run(tmp_path / "alone")
    ranks = on_ranks(lambda: run(tmp_path / "two"), tmp_path)
    for name, weight in alone.items():
        torch.testing.assert_close(ranks[1][name], weight, atol=1e-5, rtol=0, msg=name)
    one, two = (world.rows(tmp_path / name)[-1] for name in ("alone", "two"))
    assert two["accuracy"] == one["accuracy"] and two["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_weights_that_differ_between_ranks_end_the_run(world, tmp_path):
    def run():
        model = world.model(seed=parallel.rank())
        try:
            world.train_rl(tmp_path / "two", world.stage(), model=model)
        except RuntimeError as error:
            return str(error)
        return ""

    assert all("was sampled from weights" in message for message in on_ranks(run, tmp_path))


def test_a_rank_that_fails_ends_the_others_at_once(world, tmp_path):
    """Nobody waits for a rank that is gone."""

    class Broken(world.SameDigit):
        def verify_many(self, pairs):
            if parallel.rank() == 1:
                raise OSError("no more verdicts")
            return super().verify_many(pairs)

    def run():
        started = time.monotonic()
        with pytest.raises((OSError, RuntimeError)) as caught:
            world.train_rl(tmp_path / "two", world.stage(), verifier=Broken())
        return time.monotonic() - started, str(caught.value)

    (first_s, first), (_, second) = on_ranks(run, tmp_path)
    assert second == "no more verdicts" and "no more verdicts" not in first
    assert first_s < 30


def test_sampling_beside_training_is_refused_on_several_ranks(world, tmp_path):
    stage = world.stage(max_staleness=1, correction=CorrectionConfig(mode="truncate"))

    def run():
        with pytest.raises(UserError, match="2 ranks"):
            world.train_rl(tmp_path / "two", stage)
        return True

    assert on_ranks(run, tmp_path) == [True, True]


def test_every_rank_has_its_share_and_together_they_have_all(monkeypatch):
    sizes, shares = [5, 1, 9, 2, 2, 7, 3], []
    monkeypatch.setattr(parallel, "num_ranks", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(parallel, "rank", lambda number=number: number)
        shares.append(parallel.own_share(sizes))
    # 9 | 7 | 5; then 3 and a 2 to the 5, the other 2 to the 7, the 1 to the 9: each to the least loaded
    assert shares == [[1, 2], [3, 5], [0, 4, 6]]
    assert [sum(sizes[i] for i in own) for own in shares] == [10, 9, 10]
