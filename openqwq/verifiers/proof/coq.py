"""Coq proofs: what counts is that a proof of our statement is closed under the global context, as another process says.

Public: `check_coq`, `CoqTask`. Three processes of `coqc`, each in a jail of the sandbox:
1. Our statement is compiled: `Definition goal : Prop := ...` in a library of its own.
2. The candidate's text is compiled behind it. Whatever it prints, and with which exit code it ends, proves nothing:
   `Admitted` and `Axiom` end with 0.
3. A third process, which never reads the candidate's text, loads both libraries, asks the kernel whether the theorem
   has the type of our goal, and asks what it rests on. Anything but "Closed under the global context" is wrong:
   axioms, admitted lemmas, and checks of the kernel that were switched off.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openqwq.sandbox import BaseSandbox, Limits
from openqwq.types import Verdict

CLOSED = "Closed under the global context"
STATEMENT, PROOF, CHECK = "OpenQwQStatement", "OpenQwQProof", "OpenQwQCheck"
OUTPUT_BYTES = 1 << 25  # a compiled library in base64
COMPILE = """
import base64, json, os, subprocess
def coqc(*arguments):
    environment = {**os.environ, "OCAMLFIND_CONF": "/tmp/findlib"}
    done = subprocess.run(["coqc", *arguments], capture_output=True, env=environment)
    said = [text[-4000:].decode("utf-8", "replace") for text in (done.stdout, done.stderr)]
    return {"code": done.returncode, "out": said[0], "err": said[1]}
name = input()
try:
    folder = os.path.dirname(coqc("-where")["out"].strip())
    with open("/tmp/findlib", "w") as file:  # the jail has no /etc, in which Coq looks for its plugins' folder
        file.write(f'path="{folder}"')
    answer = coqc("-q", "-w", "none", "-Q", ".", "OpenQwQ", name + ".v")
except FileNotFoundError:
    answer = {"code": None}
if answer["code"] == 0:
    with open(name + ".vo", "rb") as file:
        answer["library"] = base64.b64encode(file.read()).decode()
print(json.dumps(answer))
"""
_NAME = re.compile(r"[A-Za-z_][\w']*")


class CoqFault(Exception):
    """No judgement: no `coqc`, a task that does not compile, a sandbox that failed."""


@dataclass(frozen=True, slots=True)
class CoqTask:
    """A theorem to prove: `type` is the closed proposition, `name` what the candidate must call it.

    header:      stands at the head of the statement and of the proof: `Require Import`, scopes.
    definitions: what the statement needs besides; compiled once, with it.
    """

    name: str
    type: str
    header: str = ""
    definitions: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> CoqTask:
        """Raises TypeError for an answer that lacks `name` or `type`."""
        fields = {name: answer.get(name, "") for name in ("name", "type", "header", "definitions")}
        if not all(isinstance(value, str) for value in fields.values()) or not fields["type"]:
            raise TypeError("`name` and `type` must be texts")
        if not _NAME.fullmatch(fields["name"]):
            raise TypeError("`name` is no name")
        return cls(**fields)


def check_coq(task: CoqTask, proof: str, sandbox: BaseSandbox, limits: Limits) -> Verdict:
    """The verdict on a candidate's Coq text. A fault on our side leaves it unjudged."""
    head = f"From OpenQwQ Require Import {STATEMENT}.\n{task.header}\n"
    check = (
        f"From OpenQwQ Require {STATEMENT} {PROOF}.\n"
        f"Definition checked : OpenQwQ.{STATEMENT}.goal := OpenQwQ.{PROOF}.{task.name}.\nPrint Assumptions checked.\n"
    )
    try:
        statement = _compile_statement(task, sandbox, limits)
        compiled = _compile(sandbox, limits, PROOF, head + proof, {STATEMENT: statement})
        if isinstance(compiled, str):
            return Verdict.wrong(compiled, extracted=proof)
        if compiled["code"] != 0:
            return Verdict.wrong("Coq error", extracted=proof, details={"errors": [compiled["err"]]})
        libraries = {STATEMENT: statement, PROOF: _library(compiled)}
        checked = _compile(sandbox, limits, CHECK, check, libraries)
    except CoqFault as fault:
        return Verdict.unjudged(f"Coq: {fault}", extracted=proof)
    if isinstance(checked, str):
        return Verdict.wrong(f"{checked} while the theorem was checked", extracted=proof)
    if checked["code"] != 0:
        return Verdict.wrong("it proves another statement", extracted=proof, details={"errors": [checked["err"]]})
    if checked["out"].strip() != CLOSED:
        return Verdict.wrong("the proof rests on more", extracted=proof, details={"assumptions": checked["out"]})
    return Verdict.correct(extracted=proof)


@lru_cache(maxsize=256)
def _compile_statement(task: CoqTask, sandbox: BaseSandbox, limits: Limits) -> bytes:
    """Our statement as a library; it is compiled once. Raises CoqFault."""
    text = f"{task.header}\n{task.definitions}\nDefinition goal : Prop := {task.type}.\n"
    compiled = _compile(sandbox, limits, STATEMENT, text, {})
    if isinstance(compiled, str) or compiled["code"] != 0:
        raise CoqFault(f"unreadable task: {compiled if isinstance(compiled, str) else compiled['err'][-300:]}")
    return _library(compiled)


def _compile(
    sandbox: BaseSandbox, limits: Limits, name: str, text: str, libraries: Mapping[str, bytes]
) -> dict[str, Any] | str:
    """What `coqc` said of a library's text; a word where it came to no end. Raises CoqFault."""
    files = {f"{name}.v": text.encode("utf-8", "replace")} | {f"{key}.vo": data for key, data in libraries.items()}
    result = sandbox.run(COMPILE, f"{name}\n", limits, files=files)
    if result.status == "timeout":
        return "deadline"
    if result.status == "memory":
        return "memory"
    if result.status != "ok":
        raise CoqFault(f"the sandbox says {result.status}: {result.reason}")
    answer = json.loads(result.stdout)
    if answer["code"] is None:
        raise CoqFault("the sandbox has no `coqc` (package coq)")
    return "crash" if answer["code"] < 0 else answer


def _library(compiled: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(compiled["library"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CoqFault(f"no library came out: {error}") from error
