"""The top of the package: a recipe's stages in order, with evaluations and a report. `run` does it all."""

from .run import RunOutcome, run

__all__ = ["RunOutcome", "run"]
