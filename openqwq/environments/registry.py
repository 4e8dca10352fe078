"""Environments by their names.

Public: ENVIRONMENTS, get_environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from openqwq.agents import Environment
from openqwq.errors import UserError

from .calc import Calc
from .fix import Fix
from .guess import Guess

ENVIRONMENTS: dict[str, Callable[[], Environment]] = {"guess": Guess, "calc": Calc, "fix": Fix}


def get_environment(name: str) -> Environment:
    """The environment of that name. Raises UserError for an unknown one."""
    if name not in ENVIRONMENTS:
        near = difflib.get_close_matches(name, ENVIRONMENTS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the environments are {', '.join(ENVIRONMENTS)}"
        raise UserError(f"there is no environment `{name}`", hint=hint)
    return ENVIRONMENTS[name]()
