"""Formal proofs, judged by a checker: Metamath by our own, Coq in the sandbox, Lean 4 through a REPL or a server.

Public: `ProofVerifier`, `extract_proof`. `problem.answer` is one of
`{"checker": "metamath", "database": TEXT or "database_file": PATH, "theorem": LABEL}`: the database states the theorem
(`LABEL $p STATEMENT $= ? $.`), the candidate gives its proof, so neither the statement nor the axioms are theirs;
`{"checker": "coq", "type": PROPOSITION, "name": NAME, "header": TEXT, "definitions": TEXT}` and
`{"checker": "lean", "type": PROPOSITION, "name": NAME, "header": TEXT}`: the candidate gives text that proves it.
The proof is the last fenced block of the answer part.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.sandbox import BaseSandbox, Limits, check_place, find_sandbox
from openqwq.types import Problem, Verdict

from ..base import answer_part
from ..workers.verifier import WorkerVerifier
from .coq import OUTPUT_BYTES, CoqTask, check_coq
from .kimina import KiminaServer
from .lean import LeanTask, check_lean, check_lean_by_server
from .lean_repl import LeanRepl

MAX_PROOF_CHARACTERS = 262_144
MAX_REQUESTS = 16  # proofs that are with a server or the sandbox at one time
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


class ProofVerifier(WorkerVerifier):
    """Correct when the checker accepts the proof of the unchanged statement.

    deadline_s:      CPU seconds of the Metamath checker for reading the database, and again for the proof.
    lean_command:    how a Lean REPL is started, e.g. ["lake", "exe", "repl"]. A proof can run code while Lean reads
                     it, so start the REPL in a jail.
    lean_folder:     where it is started.
    lean_url:        a Kimina-style server instead of a REPL of our own; without either, Lean tasks are a user error.
    lean_key_env:    the environment variable that holds the server's key; empty: it asks for none.
    lean_timeout_s:  seconds for one command of the REPL, or one text of the server.
    lean_memory_mib: address space of the REPL.
    coq_timeout_s:   seconds for each of the three compilations of a Coq proof.
    coq_memory_mib:  memory for each of them.
    sandbox:         where Coq runs, as for the verifier `code`.
    """

    name: ClassVar[str] = "proof"
    version: ClassVar[str] = "2"
    worker = "openqwq.verifiers.proof.metamath_worker:judge"

    def __init__(
        self,
        *,
        format_free: bool = False,
        deadline_s: float = 20.0,
        num_workers: int = 0,
        lean_command: Sequence[str] = (),
        lean_folder: str = "",
        lean_url: str = "",
        lean_key_env: str = "",
        lean_timeout_s: float = 60.0,
        lean_memory_mib: int = 16384,
        coq_timeout_s: float = 60.0,
        coq_memory_mib: int = 2048,
        sandbox: BaseSandbox | str = "",
    ):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)
        if lean_command and lean_url:
            raise UserError("verifier `proof` takes one of the options `lean_command` and `lean_url`")
        self.lean_timeout_s = lean_timeout_s
        self._repl = LeanRepl(lean_command, cwd=lean_folder, memory_mib=lean_memory_mib) if lean_command else None
        self._repl_lock = threading.Lock()
        self._server = KiminaServer(lean_url, key_env=lean_key_env) if lean_url else None
        self._coq_limits = Limits(
            wall_s=coq_timeout_s, cpu_s=coq_timeout_s, memory_mib=coq_memory_mib, tmp_mib=256, output_bytes=OUTPUT_BYTES
        )
        check_place(sandbox)
        self._sandbox = sandbox

    def prepare_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict | list[Any]]:
        """As `prepare`, several at a time: servers and the sandbox have room for them."""
        with ThreadPoolExecutor(MAX_REQUESTS) as pool:
            return list(pool.map(lambda pair: self.prepare(*pair), pairs))

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [database, file, theorem, proof] for the Metamath checker."""
        answer = problem.answer if isinstance(problem.answer, dict) else {}
        checker = answer.get("checker")
        if checker not in ("metamath", "lean", "coq"):
            return Verdict.unjudged(f"unreadable task: `checker` is {checker!r}, not metamath, lean or coq")
        try:
            task = self._read_task(checker, answer)
        except (KeyError, TypeError) as error:
            return Verdict.unjudged(f"unreadable task: {error}")
        proof = extract_proof(completion, format_free=self.format_free, opened=problem.thinking_opened)
        if not proof:
            return Verdict.wrong("no proof")
        if len(proof) > MAX_PROOF_CHARACTERS:
            return Verdict.wrong("proof too long", extracted=proof[:200])
        if isinstance(task, LeanTask):
            return self._judge_lean(task, proof)
        if isinstance(task, CoqTask):
            return check_coq(task, proof, find_sandbox(self._sandbox), self._coq_limits)
        return [*task, proof.rpartition("$=")[2].strip().removesuffix("$.")]

    @staticmethod
    def _read_task(checker: str, answer: Mapping[str, Any]) -> LeanTask | CoqTask | list[str]:
        """The statement to prove; for Metamath [database, file, theorem]. Raises TypeError where there is none."""
        if checker == "lean":
            return LeanTask.read(answer)
        if checker == "coq":
            return CoqTask.read(answer)
        source = [answer.get("database", ""), answer.get("database_file", ""), answer.get("theorem")]
        if not all(isinstance(text, str) for text in source) or bool(source[0]) == bool(source[1]) or not source[2]:
            raise TypeError("it needs `theorem` and one of `database`, `database_file`")
        return source

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        how, *why = result
        if how == "unreadable":
            return Verdict.unjudged(f"unreadable task: {why[0]}", extracted=job[-1])
        return Verdict.correct(extracted=job[-1]) if how == "proved" else Verdict.wrong(why[0], extracted=job[-1])

    def _judge_lean(self, task: LeanTask, proof: str) -> Verdict:
        if self._server is not None:
            return check_lean_by_server(task, proof, self._server, timeout_s=self.lean_timeout_s)
        if self._repl is None:
            raise UserError(
                "no Lean is configured for verifier `proof`",
                hint='set the option `lean_url`, or `lean_command`, e.g. ["lake", "exe", "repl"], and `lean_folder`',
            )
        with self._repl_lock:
            return check_lean(task, proof, self._repl, timeout_s=self.lean_timeout_s)


def extract_proof(completion: str, *, format_free: bool = False, opened: bool | None = None) -> str | None:
    """The last fenced block of the answer part; format-free: of the whole text, else the answer part itself."""
    answer = answer_part(completion, opened=opened, format_free=format_free)
    if answer is None:
        return None
    blocks = _FENCE.findall(answer) or (_FENCE.findall(completion) if format_free else [])
    return blocks[-1].strip() if blocks else (answer.strip() or None) if format_free else None
