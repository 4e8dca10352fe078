"""Verifiers by name: ours, and users' own through the entry-point group `openqwq.verifiers`.

An entry point names a `Verifier` class or a plain function of (problem, completion); see `verifier_of`. A function in
a file needs no entry point: its name is `FILE.py:FUNCTION` (`own.py`). From Python verifiers are handed in for a while
with `given_verifiers`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import Any

from openqwq.config import is_own
from openqwq.errors import UserError

from .base import Verifier, verifier_of
from .own.forks import ForkServer
from .own.verifier import OwnFunction, OwnVerifier, digest_of, forget

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


Given = Verifier | Callable[..., Any] | str
"""A verifier handed in from Python: an instance, a reward function, or the name of another verifier."""
_given: dict[str, Verifier | OwnFunction | str] = {}


@contextmanager
def given_verifiers(verifiers: Mapping[str, Given]) -> Iterator[dict[str, str]]:
    """Within this block `get_verifier` knows these as well; gives the digest of each function's code.

    Functions run in forked worker processes. Raises UserError for a name that is taken, or a value that is no verifier.
    """
    with ExitStack() as stack:
        functions = {name: given for name, given in verifiers.items() if not isinstance(given, Verifier | str)}
        for name, given in verifiers.items():
            if name in verifier_names():
                raise UserError(f"there is a verifier `{name}` already", hint="give yours another name")
            if name in functions and (not callable(given) or isinstance(given, type)):
                raise UserError(
                    f"the verifier `{name}` is {given!r}", hint="a function, a Verifier or a name is needed"
                )
        made: dict[str, Verifier | OwnFunction | str] = {n: g for n, g in verifiers.items() if n not in functions}  # type: ignore[misc]
        if functions:
            server = ForkServer(functions)
            stack.callback(server.close)
            for name, function in functions.items():
                made[name] = own = OwnFunction(name, digest_of(function), _launcher(server, name))
                stack.callback(forget, own)
        _given.update(made)
        stack.callback(lambda: [_given.pop(name) for name in made])
        yield {name: given.digest for name, given in made.items() if isinstance(given, OwnFunction)}


def _launcher(server: ForkServer, name: str) -> Callable[[], Any]:
    return lambda: server.launch(name)


def verifier_names() -> list[str]:
    """Every name that `get_verifier` knows: ours, the installed entry points, and those handed in."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group="openqwq.verifiers")), *_given})


def check_verifier_name(name: str) -> None:
    """Raise UserError, naming the nearest, for a name that `get_verifier` does not know."""
    if not is_own(name) and name not in verifier_names():
        raise _unknown("verifier", name, verifier_names(), hint=OWN_HINT)


def get_verifier(name: str, **options: Any) -> Verifier:
    """The verifier of that name with these options; `FILE.py:FUNCTION` is a function of the user's own.

    `format_free` may be given to every verifier: those that read no answer judge alike with and without it.
    Raises UserError, naming the nearest, for an unknown name or option, a value of another type, a missing option.
    """
    given = _given.get(name)
    if isinstance(given, str):
        return get_verifier(given, **options)
    if isinstance(given, Verifier):
        return given
    if given is not None or is_own(name):
        return OwnVerifier(given or OwnFunction.in_file(name), **options)
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


def needs_answer(name: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether problems of this verifier must have an `answer`; of a composite, whether some part needs one."""
    given = _given.get(name)
    if isinstance(given, str):
        return needs_answer(given, options)
    if name == "composite":
        return any(needs_answer(part) for part in _part_names(options or {}))
    if given is not None:
        return given.needs_answer if isinstance(given, Verifier) else False
    return not is_own(name) and _find(name).needs_answer


def _part_names(options: Mapping[str, Any]) -> Iterator[str]:
    parts = options.get("parts") or {}
    for name in [*(options.get("weights") or {}), *(options.get("gates") or ())]:
        part = parts.get(name, {})
        yield str(part.get("verifier", name)) if isinstance(part, Mapping) else name


def _find(name: str) -> type[Verifier]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group="openqwq.verifiers"):
        if entry.name == name:
            return _as_verifier(entry.load(), name)
    raise _unknown("verifier", name, verifier_names(), hint=OWN_HINT)


def _as_verifier(loaded: Any, name: str) -> type[Verifier]:
    """What an entry point names: a Verifier class, or a function of (problem, completion)."""
    if isinstance(loaded, type) and issubclass(loaded, Verifier):
        return loaded
    if not callable(loaded):
        raise UserError(f"the entry point `{name}` of openqwq.verifiers is neither a Verifier nor a function")
    return verifier_of(loaded, name)


OWN_HINT = 'a reward function of your own is named by its file: verifier = "rewards.py:score"'


def _unknown(what: str, given: str, known: list[str], *, hint: str = "") -> UserError:
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    known_text = f"known: {', '.join(known) or 'none'}"
    text = f"did you mean `{nearest[0]}`? ({known_text})" if nearest else known_text
    return UserError(f"unknown {what}: `{given}`", hint=text + (f"; {hint}" if hint else ""))


def _check_type(what: str, value: Any, expected: Any) -> None:
    """Raise UserError unless a value of a plain type (bool, int, float, str) is of that type."""
    accepted = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(expected)
    if accepted is None:
        return
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"{what} is {value!r}, but must be of type {expected.__name__}")
