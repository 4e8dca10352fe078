"""Lean 4 proofs, judged through a REPL: what counts is the kernel's word on our statement, not the lack of errors.

Public: `check_lean`, `LeanTask`. In this order:
1. Text that could change what later text means, or what is printed, is refused before Lean sees it.
2. The statement is elaborated before the candidate's text, under a name of ours.
3. The candidate's text runs; errors and `sorry` are wrong.
4. The candidate's theorem must prove our statement, and what that proof rests on must be Lean's three usual axioms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openqwq.types import Verdict
from openqwq.verifiers.lean_repl import LeanRepl, ReplError

USUAL_AXIOMS = frozenset({"propext", "Classical.choice", "Quot.sound"})
_REFUSED_WORDS = (
    "sorry admit axiom constant opaque unsafe partial native_decide ofReduceBool reduceBool trustCompiler "
    "implemented_by extern by_elab macro macro_rules elab elab_rules notation infix infixl infixr prefix postfix "
    "syntax declare_syntax_cat set_option run_cmd run_tac run_elab initialize builtin_initialize import hiding OpenQwQ "
    "debug sorryAx addDecl"
)
_REFUSED = re.compile(rf"(?<![\w.])({'|'.join(_REFUSED_WORDS.split())})(?![\w'])|(sorryAx)|(#\w+)")
_AXIOM_LIST = re.compile(r"depends on axioms:\s*\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class LeanTask:
    """A theorem to prove: `type` is the closed proposition, `name` what the candidate must call it."""

    name: str
    type: str
    header: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> LeanTask:
        """Raises KeyError or TypeError for an answer that lacks `name` or `type`."""
        fields = {name: answer.get(name, "") for name in ("name", "type", "header")}
        if not all(isinstance(value, str) for value in fields.values()) or not fields["name"] or not fields["type"]:
            raise TypeError("`name` and `type` must be texts")
        return cls(**fields)


def check_lean(task: LeanTask, proof: str, repl: LeanRepl, *, timeout_s: float) -> Verdict:
    """The verdict on a candidate's Lean text. A REPL that fails on our own part leaves it unjudged.

    A candidate that runs past the deadline is asked once more with twice the time: the machine may have been busy.
    """
    if found := _REFUSED.search(proof):
        return Verdict.wrong(f"the proof uses `{found[0]}`", extracted=proof)
    for attempt in (1, 2):
        try:
            env = _state(task, repl, timeout_s)
        except ReplError as error:
            return Verdict.unjudged(f"Lean: {error}", extracted=proof)
        try:
            return _judge(task, proof, repl, env, attempt * timeout_s)
        except ReplError as error:
            if error.why == "unreadable":
                return Verdict.unjudged(f"Lean: {error}", extracted=proof)
            fault = error.why
    return Verdict.wrong("deadline" if fault == "deadline" else "crash", extracted=proof)


def _state(task: LeanTask, repl: LeanRepl, timeout_s: float) -> int:
    """The environment in which our statement has a name."""
    env: int | None = None
    for text in filter(None, (task.header, f"def OpenQwQ.goal : Prop := {task.type}")):
        answer = repl.ask({"cmd": text} if env is None else {"cmd": text, "env": env}, timeout_s)
        if _errors(answer) or not isinstance(answer.get("env"), int):
            raise ReplError("unreadable", f"the statement: {(_errors(answer) or [str(answer)])[0][:300]}")
        env = answer["env"]
    assert env is not None
    return env


def _judge(task: LeanTask, proof: str, repl: LeanRepl, env: int, timeout_s: float) -> Verdict:
    answer = repl.ask({"cmd": proof, "env": env}, timeout_s)
    if errors := _errors(answer):
        return Verdict.wrong("Lean error", extracted=proof, details={"errors": errors[:5]})
    if answer.get("sorries") or any("sorry" in text for _, text in _messages(answer)):
        return Verdict.wrong("the proof uses `sorry`", extracted=proof)
    proved = repl.ask({"cmd": f"theorem OpenQwQ.check : OpenQwQ.goal := @{task.name}", "env": answer["env"]}, timeout_s)
    if errors := _errors(proved):
        return Verdict.wrong("it proves another statement", extracted=proof, details={"errors": errors[:5]})
    printed = repl.ask({"cmd": "#print axioms OpenQwQ.check", "env": proved["env"]}, timeout_s)
    axioms = _axioms(printed)
    if axioms is None:
        return Verdict.unjudged("Lean: no list of axioms", extracted=proof)
    if extra := sorted(axioms - USUAL_AXIOMS):
        return Verdict.wrong(f"the proof rests on {', '.join(extra)}", extracted=proof)
    return Verdict.correct(extracted=proof, details={"axioms": sorted(axioms)})


def _messages(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(m.get("severity")), str(m.get("data"))) for m in answer.get("messages", ())]


def _errors(answer: Mapping[str, Any]) -> list[str]:
    """Error messages; an answer without an environment is a failure of the whole command."""
    errors = [text for severity, text in _messages(answer) if severity == "error"]
    if not errors and "env" not in answer:
        errors = [str(answer.get("message", "no environment"))]
    return errors


def _axioms(answer: Mapping[str, Any]) -> set[str] | None:
    for severity, text in _messages(answer):
        if severity == "info" and "OpenQwQ.check" in text:
            if "does not depend on any axioms" in text:
                return set()
            if match := _AXIOM_LIST.search(text):
                return {name.strip() for name in match[1].split(",")}
    return None
