import random

import pytest
import torch

from openqwq.config import RewardModelStage
from openqwq.errors import UserError
from openqwq.train.reward_model import RewardModel, calibration_error, measure_pairs, run_reward_model


def preferences(count, seed):
    """The completion that holds more sevens is preferred."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        prompt = [rng.randrange(1, 7) for _ in range(rng.randrange(1, 5))]
        pairs.append(([*prompt, 7, rng.randrange(8, 15), 15], [*prompt, rng.randrange(8, 15), 9, 15]))
    return pairs


STAGE = RewardModelStage(pairs_per_step=16, epochs=4, learning_rate=2e-2, tokens_per_microbatch=64)


def test_reward_model_learns_preferences_and_reports_held_out_measures(world, tmp_path):
    policy = world.model()
    before = world.weights(policy)
    trained = run_reward_model(
        STAGE, model=policy, pairs=preferences(96, 1), held_out=preferences(64, 2), ctx=world.context(tmp_path, "rm")
    )
    rows = world.rows(tmp_path)
    assert len(rows) == 24
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the head starts at 0: every pair is a tie
    assert rows[-1]["held_out_accuracy"] > 0.95
    assert rows[-1]["held_out_calibration_error"] < 0.2
    assert all(row["held_out_accuracy"] is None for row in rows[:-1])
    assert world.same_weights(world.weights(policy), before)
    scores = trained.score([sequence for pair in preferences(96, 1) for sequence in pair])
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-4)


def test_score_reads_the_last_token_of_each_sequence_in_order(world):
    model = RewardModel(world.model())
    with torch.no_grad():
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.offset.fill_(0.25)
    sequences = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [1, 2, 3]]
    scores = model.score(sequences)
    for score, sequence in zip(scores, sequences, strict=True):
        hidden = model.decoder.hidden_states(torch.tensor(sequence), lengths=[len(sequence)])
        assert score == pytest.approx((hidden[-1] @ model.score_head.weight[0]).item() - 0.25, abs=1e-5)
    assert model.score([]) == []


def test_gradient_is_the_same_for_every_microbatch_split(world, tmp_path):
    def train(tokens):
        stage = RewardModelStage(pairs_per_step=16, learning_rate=1e-2, tokens_per_microbatch=tokens)
        ctx = world.context(tmp_path / str(tokens), "rm")
        run_reward_model(stage, model=world.model(), pairs=preferences(32, 1), held_out=[], ctx=ctx)
        return world.rows(tmp_path / str(tokens))

    whole, split = train(10_000), train(30)
    for one, other in zip(whole, split, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert whole[-1]["held_out_accuracy"] is None


def test_a_saved_reward_model_scores_the_same(world, tmp_path):
    model = RewardModel(world.model())
    with torch.no_grad():
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.offset.fill_(0.5)
    model.save(tmp_path / "rm")
    sequences = [[1, 2, 3], [4, 5]]
    assert RewardModel.load(tmp_path / "rm").score(sequences) == model.score(sequences)
    (tmp_path / "rm" / "score.safetensors").unlink()
    with pytest.raises(UserError, match=r"score\.safetensors"):
        RewardModel.load(tmp_path / "rm")


def test_calibration_error_by_hand():
    # bin 0.5: confidences 0.55, 0.55, hits 1, 0: |1.1 - 1| = 0.1; bin 0.9: 0.95, 0.95, hits 1, 1: 0.1; over 4
    assert calibration_error([0.55, 0.95, 0.55, 0.95], [1, 1, 0, 1]) == pytest.approx(0.05)
    assert calibration_error([1.0], [0.0]) == 1.0


def test_tied_scores_count_as_half_correct(world):
    measures = measure_pairs(RewardModel(world.model()), preferences(4, 3))
    assert measures == {"held_out_pairs": 4, "held_out_accuracy": 0.5, "held_out_calibration_error": 0.0}


def test_no_pairs_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="no preference pairs"):
        run_reward_model(STAGE, model=world.model(), pairs=[], held_out=[], ctx=world.context(tmp_path, "rm"))
