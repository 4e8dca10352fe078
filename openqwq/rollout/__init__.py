"""Problem and policy to rollouts. Knows a policy only as `openqwq.types.Policy`; never imports torch."""

from .agent import make_rollout, render_problem
from .group import sample_groups
from .stream import GroupStream, SteppedPolicy

__all__ = ["GroupStream", "SteppedPolicy", "make_rollout", "render_problem", "sample_groups"]
