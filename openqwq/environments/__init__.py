"""Environments that ship with the package: guess, calc, fix. Each has bounds that no policy without feedback passes."""

from .calc import Calc
from .check import check
from .fix import Fix
from .guess import Guess
from .registry import ENVIRONMENTS, get_environment

__all__ = ["ENVIRONMENTS", "Calc", "Fix", "Guess", "check", "get_environment"]
