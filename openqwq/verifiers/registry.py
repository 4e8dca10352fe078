"""Verifiers by name: ours, and users' own through the entry-point group `openqwq.verifiers`.

An entry point names a `Verifier` class or a plain function of (problem, completion); see `verifier_of`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from importlib.metadata import entry_points
from typing import Any

from openqwq.errors import UserError

from .base import Verifier, verifier_of

BUILT_IN = {
    "math": "openqwq.verifiers.math.verifier:MathVerifier",
    "code": "openqwq.verifiers.code.verifier:CodeVerifier",
    "reasoning_gym": "openqwq.verifiers.reasoning_gym.verifier:ReasoningGymVerifier",
    "instructions": "openqwq.verifiers.instructions:InstructionsVerifier",
    "tool_call": "openqwq.verifiers.tool_call.verifier:ToolCallVerifier",
    "format": "openqwq.verifiers.format:FormatVerifier",
    "language": "openqwq.verifiers.language:LanguageVerifier",
    "repetition": "openqwq.verifiers.repetition:RepetitionVerifier",
    "length": "openqwq.verifiers.length:LengthVerifier",
    "judge": "openqwq.verifiers.llm_judge:JudgeVerifier",
    "proof": "openqwq.verifiers.proof.verifier:ProofVerifier",
    "environment": "openqwq.verifiers.environment.verifier:EnvironmentVerifier",
    "composite": "openqwq.verifiers.composite:CompositeVerifier",
    "reward_model": "openqwq.verifiers.reward_model:RewardModelVerifier",
}
"""Imported on first use, so that asking for one verifier costs nothing of the others."""


def verifier_names() -> list[str]:
    """Every name that `get_verifier` knows: ours and the installed entry points."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group="openqwq.verifiers"))})


def get_verifier(name: str, **options: Any) -> Verifier:
    """The verifier of that name with these options.

    `format_free` may be given to every verifier: those that read no answer judge alike with and without it.
    Raises UserError, naming the nearest, for an unknown name or option, a value of another type, a missing option.
    """
    verifier_class = _find(name)
    hints = typing.get_type_hints(verifier_class.__init__)
    parameters = inspect.signature(verifier_class).parameters
    if "format_free" not in parameters:
        _check_type(f"option `format_free` of verifier `{name}`", options.pop("format_free", False), bool)
    for option, value in options.items():
        if option not in parameters:
            raise _unknown(f"option of verifier `{name}`", option, list(parameters))
        _check_type(f"option `{option}` of verifier `{name}`", value, hints.get(option))
    if missing := [n for n, p in parameters.items() if p.default is p.empty and n not in options]:
        raise UserError(f"verifier `{name}` needs the option `{missing[0]}`")
    return verifier_class(**options)


def _find(name: str) -> type[Verifier]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group="openqwq.verifiers"):
        if entry.name == name:
            return _as_verifier(entry.load(), name)
    raise _unknown("verifier", name, verifier_names())


def _as_verifier(loaded: Any, name: str) -> type[Verifier]:
    """What an entry point names: a Verifier class, or a function of (problem, completion)."""
    if isinstance(loaded, type) and issubclass(loaded, Verifier):
        return loaded
    if not callable(loaded):
        raise UserError(f"the entry point `{name}` of openqwq.verifiers is neither a Verifier nor a function")
    return verifier_of(loaded, name)


def _unknown(what: str, given: str, known: list[str]) -> UserError:
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    known_text = f"known: {', '.join(known) or 'none'}"
    hint = f"did you mean `{nearest[0]}`? ({known_text})" if nearest else known_text
    return UserError(f"unknown {what}: `{given}`", hint=hint)


def _check_type(what: str, value: Any, expected: Any) -> None:
    """Raise UserError unless a value of a plain type (bool, int, float, str) is of that type."""
    accepted = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(expected)
    if accepted is None:
        return
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"{what} is {value!r}, but must be of type {expected.__name__}")
