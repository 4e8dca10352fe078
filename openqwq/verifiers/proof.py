"""Formal proofs behind one interface: Metamath with a checker of our own, Lean 4 through a REPL.

Public: `ProofVerifier`, `extract_proof`. `problem.answer` is one of
`{"checker": "metamath", "database": TEXT or "database_file": PATH, "theorem": LABEL}`: the database states the theorem
(`LABEL $p STATEMENT $= ? $.`), the candidate gives its proof, so neither the statement nor the axioms are theirs;
`{"checker": "lean", "type": PROPOSITION, "name": NAME, "header": TEXT}`: the candidate gives Lean text that proves it.
The proof is the last fenced block of the answer part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict
from openqwq.verifiers.base import answer_part
from openqwq.verifiers.lean import LeanTask, check_lean
from openqwq.verifiers.lean_repl import LeanRepl
from openqwq.verifiers.worker_verifier import WorkerVerifier

MAX_PROOF_CHARACTERS = 262_144
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


class ProofVerifier(WorkerVerifier):
    """Correct when the checker accepts the proof of the unchanged statement.

    deadline_s:      CPU seconds of the Metamath checker for reading the database, and again for the proof.
    lean_command:    how a Lean REPL is started, e.g. ["lake", "exe", "repl"]; empty: Lean tasks are a user error.
                     A proof can run code while Lean reads it, so start the REPL in a jail.
    lean_folder:     where it is started.
    lean_timeout_s:  seconds for one command of the REPL.
    lean_memory_mib: address space of the REPL.
    """

    name: ClassVar[str] = "proof"
    worker = "openqwq.verifiers.metamath_worker:judge"

    def __init__(
        self,
        *,
        format_free: bool = False,
        deadline_s: float = 20.0,
        num_workers: int = 0,
        lean_command: Sequence[str] = (),
        lean_folder: str = "",
        lean_timeout_s: float = 60.0,
        lean_memory_mib: int = 16384,
    ):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)
        self.lean_timeout_s = lean_timeout_s
        self._repl = LeanRepl(lean_command, cwd=lean_folder, memory_mib=lean_memory_mib) if lean_command else None

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [database, file, theorem, proof] for the Metamath checker."""
        answer = problem.answer if isinstance(problem.answer, dict) else {}
        checker = answer.get("checker")
        if checker not in ("metamath", "lean"):
            return Verdict.unjudged(f"unreadable task: `checker` is {checker!r}, not metamath or lean")
        proof = extract_proof(completion, format_free=self.format_free)
        if not proof:
            return Verdict.wrong("no proof")
        if len(proof) > MAX_PROOF_CHARACTERS:
            return Verdict.wrong("proof too long", extracted=proof[:200])
        if checker == "lean":
            return self._judge_lean(answer, proof)
        source = [answer.get("database", ""), answer.get("database_file", ""), answer.get("theorem")]
        if not all(isinstance(text, str) for text in source) or bool(source[0]) == bool(source[1]):
            return Verdict.unjudged("unreadable task: it needs `theorem` and one of `database`, `database_file`")
        return [*source, proof.rpartition("$=")[2].strip().removesuffix("$.")]

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        how, *why = result
        if how == "unreadable":
            return Verdict.unjudged(f"unreadable task: {why[0]}", extracted=job[-1])
        return Verdict.correct(extracted=job[-1]) if how == "proved" else Verdict.wrong(why[0], extracted=job[-1])

    def _judge_lean(self, answer: dict[str, Any], proof: str) -> Verdict:
        if self._repl is None:
            raise UserError(
                "no Lean REPL is configured for verifier `proof`",
                hint='set the option `lean_command`, e.g. ["lake", "exe", "repl"], and `lean_folder`',
            )
        try:
            task = LeanTask.read(answer)
        except TypeError as error:
            return Verdict.unjudged(f"unreadable task: {error}")
        return check_lean(task, proof, self._repl, timeout_s=self.lean_timeout_s)


def extract_proof(completion: str, *, format_free: bool = False) -> str | None:
    """The last fenced block of the answer part; format-free: of the whole text, else the answer part itself."""
    answer = answer_part(completion, format_free=format_free)
    if answer is None:
        return None
    blocks = _FENCE.findall(answer) or (_FENCE.findall(completion) if format_free else [])
    return blocks[-1].strip() if blocks else (answer.strip() or None) if format_free else None
