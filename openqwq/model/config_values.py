"""Values of a config.json, checked for type and range before anything is computed from them.

Public: require, check_number.
"""

from __future__ import annotations

import math
from typing import Any

from openqwq.errors import UserError


def require(good: bool, name: str, value: object, allowed: str) -> None:
    """Raises UserError, naming the key, its value and what is allowed, unless `good`."""
    if not good:
        raise UserError(f"`{name}` is {value} in the model's config, but must be {allowed}")


def check_number(name: str, value: Any, *, whole: bool) -> None:
    """Raises UserError for what is no finite number; whole: nor an integer. Texts and booleans are not numbers."""
    wanted = int if whole else (int, float)
    good = isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value)
    if not good:
        allowed = "a whole number" if whole else "a number"
        raise UserError(f"`{name}` is {value!r:.80} in the model's config, but must be {allowed}")
