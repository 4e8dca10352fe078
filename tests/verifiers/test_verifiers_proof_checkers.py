"""Proofs judged elsewhere: Coq for real in the sandbox, Lean by a Kimina-style server, scripted and recorded."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.sandbox import RunResult, Sandbox
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.proof.verifier import ProofVerifier

TRANSCRIPTS = Path(__file__).parents[2].parent / "shared" / "data" / "lean_repl_fixtures" / "test"
COQ = {"checker": "coq", "name": "mine", "type": "forall n m : nat, n + m = m + n"}
HEAD = "Theorem mine : forall n m : nat, n + m = m + n."
COQ_PROOFS = {
    "lemmas": (f"Require Import Lia.\n{HEAD} Proof. intros. lia. Qed.", "correct", ""),
    "no_proof": (f"{HEAD} Proof. reflexivity. Qed.", "wrong", "Coq error"),
    "admitted": (f"{HEAD} Admitted.", "wrong", "the proof rests on more"),
    "axiom": (f"Axiom cheat : False.\n{HEAD} Proof. destruct cheat. Qed.", "wrong", "the proof rests on more"),
    "unguarded": (
        "#[global] Unset Guard Checking.\nFixpoint loop (n : nat) : False := loop n.\n"
        f"{HEAD} Proof. destruct (loop 0). Qed.",
        "wrong",
        "the proof rests on more",
    ),
    "another_nat": (
        f'Definition nat := unit.\nDefinition add (n m : nat) := tt.\nNotation "n + m" := (add n m).\n'
        f"{HEAD} Proof. reflexivity. Qed.",
        "wrong",
        "it proves another statement",
    ),
    "another_goal": (
        "Module OpenQwQStatement. Definition goal := True. End OpenQwQStatement.\n"
        "Theorem mine : OpenQwQStatement.goal. Proof. exact I. Qed.",
        "wrong",
        "it proves another statement",
    ),
    "printed": (
        f'Goal True. idtac "Closed under the global context". Abort.\n{HEAD} Admitted.',
        "wrong",
        "the proof rests on more",
    ),
}


def make_problem(answer):
    return Problem(id="p", source="s", kind="proof", messages=(Message("user", "q"),), verifier="proof", answer=answer)


def answered(proof):
    return f"hm</think>\n\nHere:\n```\n{proof}\n```\n"


@pytest.fixture(scope="module")
def coq():
    if not shutil.which("coqc"):
        pytest.skip("needs Coq (package coq)")
    with Sandbox(workers=2) as sandbox:
        yield ProofVerifier(sandbox=sandbox)


def test_coq_counts_what_is_closed_under_the_global_context(coq):
    verdicts = coq.verify_many([(make_problem(COQ), answered(proof)) for proof, _, _ in COQ_PROOFS.values()])
    found = {name: (v.status, v.reason) for name, v in zip(COQ_PROOFS, verdicts, strict=True)}
    assert found == {name: wanted for name, (_, *wanted) in COQ_PROOFS.items() for wanted in [tuple(wanted)]}


def test_coq_statements_may_need_definitions_and_must_compile(coq):
    answer = COQ | {"definitions": "Inductive two := one | other.", "type": "forall x : two, x = one \\/ x = other"}
    proof = "Theorem mine : forall x : two, x = one \\/ x = other. Proof. destruct x; auto. Qed."
    again = f"Inductive two := one | other.\n{proof}"
    broken = COQ | {"type": "forall n, n ="}
    pairs = [(answer, proof), (answer, again), (broken, proof), ({"checker": "coq", "type": "True"}, proof)]
    verdicts = coq.verify_many([(make_problem(task), answered(text)) for task, text in pairs])
    assert [v.status for v in verdicts] == ["correct", "wrong", "unjudged", "unjudged"], verdicts


@pytest.mark.parametrize(
    ("status", "stdout", "reason"),
    [
        ("infra_error", "", "Coq: the sandbox says infra_error: no jail"),
        ("ok", '{"code": null}', "Coq: the sandbox has no `coqc` (package coq)"),
    ],
)
def test_coq_that_cannot_be_run_leaves_the_proof_unjudged(status, stdout, reason, monkeypatch):
    result = RunResult(
        status=status, stdout=stdout, stderr="", exit_code=0, wall_s=0, cpu_s=0, memory_mib=0, reason="no jail"
    )
    with Sandbox(workers=1) as sandbox:
        monkeypatch.setattr(sandbox, "run", lambda *args, **kwargs: result)
        verdict = ProofVerifier(sandbox=sandbox)(make_problem(COQ), answered("x"))
    assert (verdict.status, verdict.reason) == ("unjudged", reason)


@pytest.fixture
def lean_server(json_server):
    """A server whose `/verify` gives what `answer(text)` says: a status code, or a result without its id."""

    @contextmanager
    def serve(answer, key=""):
        def respond(body, headers):
            assert set(body) == {"codes", "timeout", "disable_cache"}
            (code,) = body["codes"]
            given = answer(code["proof"])
            if key and headers["Authorization"] != f"Bearer {key}":
                given = 401
            if isinstance(given, int):
                return given, {}, {}
            return 200, {}, {"results": [{"custom_id": code["custom_id"], **given}]}

        with json_server(respond) as (url, log):
            yield url
        assert {path for path, *_ in log} <= {"/verify"}

    return serve


LEAN = {"checker": "lean", "type": "∀ a b : Nat, a + b = b + a", "name": "mine", "header": "import Lean"}
PROOF = "theorem mine : ∀ a b : Nat, a + b = b + a := Nat.add_comm"


def messages(*said):
    return {"response": {"messages": [{"severity": kind, "data": text} for kind, text in said], "time": 0.1}}


def axioms(listed):
    """Answers each check with these words about the theorem that it names."""

    def answer(text):
        name = re.search(r"^#print axioms _root_\.(\S+)$", text, re.MULTILINE)
        return messages(("info", f"'{name[1]}' {listed}")) if name else messages()

    return answer


def only_with_proof(result):
    return lambda text: result if "theorem mine" in text else messages()


GUESSED = messages(("info", "'OpenQwQ.check' does not depend on any axioms"), ("info", "does not depend on any axioms"))


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (axioms("depends on axioms: [propext, Quot.sound]"), "correct", ""),
        (axioms("does not depend on any axioms"), "correct", ""),
        (axioms("depends on axioms: [propext, cheat]"), "wrong", "rests on cheat"),
        (only_with_proof(messages(("error", "unsolved goals"))), "wrong", "Lean error"),
        (only_with_proof({"response": {"env": 0, "sorries": [{"goal": "x"}]}}), "wrong", "sorry"),
        (only_with_proof({"error": "Lean REPL command timed out in 1 seconds"}), "wrong", "deadline"),
        (only_with_proof(GUESSED), "unjudged", "no list of axioms"),
        (only_with_proof({"response": {"message": "Unknown environment."}}), "unjudged", "Unknown environment"),
        (only_with_proof({"error": "REPL died"}), "unjudged", "REPL died"),
        (only_with_proof({"custom_id": "another", "response": {}}), "unjudged", "unreadable"),
        (lambda text: messages(("error", "unknown identifier")), "unjudged", "the statement: unknown identifier"),
        (lambda text: 503, "unjudged", "503"),
    ],
)  # fmt: skip
def test_lean_verdicts_follow_what_the_server_says(lean_server, answer, status, reason, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda s: None)
    with lean_server(answer) as url:
        verifier = get_verifier("proof", lean_url=url, lean_timeout_s=1.0)
        verdict = verifier(make_problem(LEAN), answered(PROOF))
    assert verdict.status == status and reason in verdict.reason, verdict


def test_the_candidates_text_stands_between_our_statement_and_our_check(lean_server):
    seen = []

    def answer(text):
        seen.append(text)
        return messages()

    with lean_server(answer) as url:
        verifier = get_verifier("proof", lean_url=url)
        verifier.verify_many([(make_problem(LEAN), answered(PROOF))])
        assert verifier(make_problem(LEAN), answered("axiom x : False")).status == "wrong"
    statement, whole = seen  # what is refused never gets there
    assert statement == f"import Lean\ndef _root_.OpenQwQ.goal : Prop := {LEAN['type']}\n"
    name = whole.rpartition(".")[2].strip()
    assert len(name) == len("check_") + 16
    end = f"theorem _root_.OpenQwQ.{name} : _root_.OpenQwQ.goal := @mine\n#print axioms _root_.OpenQwQ.{name}\n"
    assert whole == f"{statement}\n{PROOF}\n\n{end}"


def test_a_busy_server_is_asked_again_and_a_refusal_is_a_user_error(lean_server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda s: None)
    monkeypatch.setenv("LEAN_KEY", "secret")
    busy = [429, 500]
    good = axioms("does not depend on any axioms")
    with lean_server(lambda text: busy.pop() if busy else good(text), key="secret") as url:
        verifier = get_verifier("proof", lean_url=f"{url}/verify", lean_key_env="LEAN_KEY")
        assert verifier(make_problem(LEAN), answered(PROOF)).status == "correct"
        with pytest.raises(UserError, match="401"):
            get_verifier("proof", lean_url=url)(make_problem(LEAN), answered(PROOF))
    with pytest.raises(UserError, match="not the address"):
        get_verifier("proof", lean_url="localhost:80")
    with pytest.raises(UserError, match="holds no key"):
        get_verifier("proof", lean_url=url, lean_key_env="NO_SUCH_KEY")
    with pytest.raises(UserError, match="one of the options"):
        get_verifier("proof", lean_url=url, lean_command=["repl"])


def test_recorded_answers_of_the_repl_are_judged_as_they_say(lean_server):
    if not TRANSCRIPTS.exists():
        pytest.skip("needs the developers' data set lean_repl_fixtures")
    judged = {"errors": 0, "sorries": 0}
    for file in sorted(TRANSCRIPTS.glob("*.expected.out")):
        recorded = json.loads(file.read_text(encoding="utf-8").split("\n\n")[0])
        has_error = any(m["severity"] == "error" for m in recorded.get("messages", ()))
        if "env" not in recorded or not (has_error or recorded.get("sorries")):
            continue
        with lean_server(only_with_proof({"response": recorded})) as url:
            verdict = get_verifier("proof", lean_url=url)(make_problem(LEAN), answered(PROOF))
        expected = "Lean error" if has_error else "the proof uses `sorry`"
        assert (verdict.status, verdict.reason) == ("wrong", expected), file.name
        judged["errors" if has_error else "sorries"] += 1
    assert min(judged.values()) > 2, judged
