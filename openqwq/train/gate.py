"""The regression gate: looks at abilities that a stage must keep, and takes it back when one falls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from openqwq.config import GateConfig
from openqwq.log import logger

from .distributed import from_first
from .stage import StageRun, load_weights

GateEvaluate = Callable[[], Mapping[str, float]]
"""The policy's held-out mean score of each kind, in [0, 1]; the same problems and seeds at every call."""

_WEIGHTS = "gate_good_weights"


class RegressionGate:
    """Compares with the stage's start every few steps. What it knows is saved with the run.

    A look is made between two steps and depends on the weights alone, so one that a killed run lost is made again.
    """

    def __init__(self, config: GateConfig, evaluate: GateEvaluate | None, run: StageRun):
        self.config, self.run = config, run
        self._evaluate = evaluate if config.kinds else None
        if config.kinds and evaluate is None:
            raise ValueError("a gate over kinds needs an evaluation")

    def scores_before(self, step: int) -> dict[str, float] | None:
        """The scores of the look that was made just before this step, if there was one."""
        return self.run.values["gate_scores"] if self.run.values.get("gate_looked_at") == step else None

    def look_if_due(self) -> None:
        """Look if it is time; stop the run and restore its last good weights if a kind fell too far."""
        run = self.run
        due = run.step % self.config.every == 0 or run.step == run.steps
        if self._evaluate is None or not due or run.values.get("gate_looked_at") == run.step:
            return
        found = from_first(self._evaluate)
        scores = {kind: float(found[kind]) for kind in self.config.kinds}
        baseline = run.values.setdefault("gate_baseline", scores)
        run.values["gate_looked_at"] = run.step
        run.values["gate_scores"] = scores
        fallen = [kind for kind, score in scores.items() if score < baseline[kind] - self.config.max_drop]
        if fallen:
            self._take_back(fallen, scores, baseline)
        else:
            run.values["gate_good_step"] = run.step
            run.tensors[_WEIGHTS] = {n: p.detach().clone() for n, p in run.model.named_parameters()}

    def _take_back(self, fallen: list[str], scores: Mapping[str, float], baseline: Mapping[str, float]) -> None:
        run = self.run
        falls = ", ".join(f"{kind} fell from {baseline[kind]:.3f} to {scores[kind]:.3f}" for kind in fallen)
        logger.warning(
            "stage `%s` stops at step %d: %s, more than `gate.max_drop` = %g; the weights of step %d are restored",
            run.ctx.name, run.step, falls, self.config.max_drop, run.values["gate_good_step"],
        )  # fmt: skip
        load_weights(run.model, run.tensors[_WEIGHTS])
        run.values["gate_fell"] = falls
        run.stop()
