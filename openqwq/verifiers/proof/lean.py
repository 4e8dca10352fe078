"""Lean 4 proofs, judged through a REPL: what counts is the kernel's word on our statement, not the lack of errors.

Public: `check_lean`, `check_lean_by_server`, `LeanTask`. In this order:
1. Text that could change what later text means, or what is printed, is refused before Lean sees it.
2. The statement is elaborated before the candidate's text, under a name of ours.
3. The candidate's text runs; errors and `sorry` are wrong.
4. The candidate's theorem must prove our statement, and what that proof rests on must be Lean's three usual axioms.
A REPL takes these as commands, one after another. A server takes one text: there our theorem bears a name that the
candidate cannot know, so that no message of the candidate's passes for the one about it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openqwq.types import Verdict

from .kimina import KiminaServer
from .lean_repl import LeanRepl, ReplError

USUAL_AXIOMS = frozenset({"propext", "Classical.choice", "Quot.sound"})
_REFUSED_WORDS = (
    "sorry admit axiom constant opaque unsafe partial native_decide ofReduceBool reduceBool trustCompiler "
    "implemented_by extern by_elab macro macro_rules elab elab_rules notation infix infixl infixr prefix postfix "
    "syntax declare_syntax_cat set_option run_cmd run_tac run_elab initialize builtin_initialize import hiding "
    "debug addDecl simproc dsimproc simproc_decl dsimproc_decl command_elab term_elab CommandElabM TermElabM TacticM "
    "MetaM"
)
_REFUSED = re.compile(
    rf"(?<![\w.])({'|'.join(_REFUSED_WORDS.split())})(?![\w'])"
    r"|(sorryAx)|(OpenQwQ)|(#\w+)|(\bLean»?\.[\w«]+)|(\b(?:open|namespace|export)\s[\s\w.«»()]*?\bLean\b)"
)
_GOAL = "_root_.OpenQwQ.goal"
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
    for text in filter(None, (task.header, f"def {_GOAL} : Prop := {task.type}")):
        answer = repl.ask({"cmd": text} if env is None else {"cmd": text, "env": env}, timeout_s)
        if _errors(answer) or not isinstance(answer.get("env"), int):
            raise ReplError("unreadable", f"the statement: {(_errors(answer) or [str(answer)])[0][:300]}")
        env = answer["env"]
    assert env is not None
    return env


def check_lean_by_server(task: LeanTask, proof: str, server: KiminaServer, *, timeout_s: float) -> Verdict:
    """As `check_lean`, by a server that takes whole texts and keeps nothing between them."""
    if found := _REFUSED.search(proof):
        return Verdict.wrong(f"the proof uses `{found[0]}`", extracted=proof)
    statement = f"{task.header}\ndef {_GOAL} : Prop := {task.type}\n"
    fault = ""
    for attempt in (1, 2):
        try:
            if errors := _error_messages(server.ask(statement, timeout_s)):
                raise ReplError("unreadable", f"the statement: {errors[0][:300]}")
        except ReplError as error:
            return Verdict.unjudged(f"Lean: {error}", extracted=proof)
        name = f"check_{secrets.token_hex(8)}"
        end = f"theorem _root_.OpenQwQ.{name} : {_GOAL} := @{task.name}\n#print axioms _root_.OpenQwQ.{name}\n"
        try:
            answer = server.ask(f"{statement}\n{proof}\n\n{end}", attempt * timeout_s)
        except ReplError as error:
            if error.why != "deadline":
                return Verdict.unjudged(f"Lean: {error}", extracted=proof)
            fault = error.why
            continue
        return _fault_of(answer, _error_messages(answer), proof) or _judge_axioms(answer, name, proof)
    return Verdict.wrong(fault, extracted=proof)


def _judge(task: LeanTask, proof: str, repl: LeanRepl, env: int, timeout_s: float) -> Verdict:
    answer = repl.ask({"cmd": proof, "env": env}, timeout_s)
    if fault := _fault_of(answer, _errors(answer), proof):
        return fault
    check = f"theorem _root_.OpenQwQ.check : {_GOAL} := @{task.name}"
    proved = repl.ask({"cmd": check, "env": answer["env"]}, timeout_s)
    if errors := _errors(proved):
        return Verdict.wrong("it proves another statement", extracted=proof, details={"errors": errors[:5]})
    printed = repl.ask({"cmd": "#print axioms _root_.OpenQwQ.check", "env": proved["env"]}, timeout_s)
    return _judge_axioms(printed, "check", proof)


def _fault_of(answer: Mapping[str, Any], errors: list[str], proof: str) -> Verdict | None:
    if errors:
        return Verdict.wrong("Lean error", extracted=proof, details={"errors": errors[:5]})
    if answer.get("sorries") or any("sorry" in text for _, text in _messages(answer)):
        return Verdict.wrong("the proof uses `sorry`", extracted=proof)
    return None


def _judge_axioms(answer: Mapping[str, Any], name: str, proof: str) -> Verdict:
    axioms = _axioms(answer, f"'OpenQwQ.{name}'")
    if axioms is None:
        return Verdict.unjudged("Lean: no list of axioms", extracted=proof)
    if extra := sorted(axioms - USUAL_AXIOMS):
        return Verdict.wrong(f"the proof rests on {', '.join(extra)}", extracted=proof)
    return Verdict.correct(extracted=proof, details={"axioms": sorted(axioms)})


def _messages(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(m.get("severity")), str(m.get("data"))) for m in answer.get("messages") or ()]


def _error_messages(answer: Mapping[str, Any]) -> list[str]:
    return [text for severity, text in _messages(answer) if severity == "error"]


def _errors(answer: Mapping[str, Any]) -> list[str]:
    """Error messages; a REPL's answer without an environment is a failure of the whole command."""
    errors = _error_messages(answer)
    if not errors and "env" not in answer:
        errors = [str(answer.get("message", "no environment"))]
    return errors


def _axioms(answer: Mapping[str, Any], theorem: str) -> set[str] | None:
    for severity, text in _messages(answer):
        if severity == "info" and text.startswith(theorem):
            if "does not depend on any axioms" in text:
                return set()
            if match := _AXIOM_LIST.search(text):
                return {name.strip() for name in match[1].split(",")}
    return None
