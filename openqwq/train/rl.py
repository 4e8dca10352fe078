"""Reinforcement learning on verified rewards: the loop of QwQ's two RL stages.

    experience = run.collect(step)      problems, rollouts, verdicts, rewards      experience/collector.py
    learned = run.learn(experience)     advantages, packing, loss, updates         learner.py, algorithm/
    run.publish(learned)                the next rollouts use the new policy       policy.py

By default group advantages without deviation (Dr. GRPO, arXiv:2503.20783) and token-level clipped policy gradient
with a higher upper bound and refilled groups (DAPO, arXiv:2503.14476); the recipe names other algorithms. Where this
differs from the papers:
1. An unjudged rollout (the verifier's or the machine's fault) is left out of mean, loss and denominator.
2. The old log-probs are the sampler's own records: it is the same module, and `mismatch_max` shows it.
3. `updates_per_batch` splits the batch's groups into mini-batches, one update each (PPO's mini-batches, one epoch);
   each has its own global denominator.
"""

from __future__ import annotations

from openqwq.config import RLStage

from .rl_run import RLOutcome, RLParts, RLRun
from .stage import StageContext


def run_rl(stage: RLStage, parts: RLParts, ctx: StageContext) -> RLOutcome:
    """Train the model in place; the policy samples with its weights.

    If the stage's gate closes, the model ends with the weights of the last evaluation that passed.
    """
    with RLRun(stage, parts, ctx) as run:
        for step in run.remaining_steps():
            experience = run.collect(step)
            with run.uninterrupted():
                learned = run.learn(experience)
                run.publish(learned)
                run.log(experience, learned)
            run.check_gate()
    return run.outcome()
