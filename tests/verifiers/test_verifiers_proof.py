"""Formal proofs: Metamath for real, and its mutations; Lean through a scripted REPL and recorded transcripts."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.proof.lean_repl import LeanRepl, ReplError
from openqwq.verifiers.proof.metamath import Database, DatabaseError, ProofError

TRANSCRIPTS = Path(__file__).parents[2].parent / "shared" / "data" / "lean_repl_fixtures" / "test"

LOGIC = r"""
$( Minimal logic, and enough of the predicate calculus for a condition on variables. $)
$c ( ) -> wff |- setvar A. = $.
$v ph ps ch x y $.
wph $f wff ph $.  wps $f wff ps $.  wch $f wff ch $.  vx $f setvar x $.  vy $f setvar y $.
wi $a wff ( ph -> ps ) $.
wal $a wff A. x ph $.
weq $a wff x = y $.
${ min $e |- ph $.  maj $e |- ( ph -> ps ) $.  ax-mp $a |- ps $. $}
ax-1 $a |- ( ph -> ( ps -> ph ) ) $.
ax-2 $a |- ( ( ph -> ( ps -> ch ) ) -> ( ( ph -> ps ) -> ( ph -> ch ) ) ) $.
${ $d x ph $.  ax-5 $a |- ( ph -> A. x ph ) $. $}
id $p |- ( ph -> ph ) $=
  wph wph wph wi wi wph wph wi wph wph ax-1 wph wph wph wi wph wi wi wph wph wph wi wi wph wph wi wi
  wph wph wph wi ax-1 wph wph wph wi wph ax-2 ax-mp ax-mp $.
${ a1i.1 $e |- ph $.  a1i $p |- ( ps -> ph ) $= wph wps wph wi a1i.1 wph wps ax-1 ax-mp $. $}
${ a2i.1 $e |- ( ph -> ( ps -> ch ) ) $.
   a2i $p |- ( ( ph -> ps ) -> ( ph -> ch ) ) $=
     wph wps wch wi wi wph wps wi wph wch wi wi a2i.1 wph wps wch ax-2 ax-mp $. $}
${ syl.1 $e |- ( ph -> ps ) $.  syl.2 $e |- ( ps -> ch ) $.
   syl $p |- ( ph -> ch ) $=
     wph wps wi wph wch wi syl.1 wph wps wch wps wch wi wph syl.2 a1i a2i ax-mp $. $}
${ $d x ph $.  ax5d $p |- ( ph -> ( ps -> A. x ph ) ) $=
   wph wph vx wal wps wph vx wal wi wph vx ax-5 wph vx wal wps ax-1 syl $. $}
idz $p |- ( ph -> ph ) $= ( wi ax-1 ax-2 ax-mp ) AAABZBZFAACAFABBGFBAFCAFADEE $.
bad5 $p |- ( x = y -> A. x x = y ) $= ? $.
"""
DATABASE = Database(LOGIC)
GOOD = {label: proof for label, proof in DATABASE.proofs.items() if proof != "?"}


def proves(label, proof):
    """Whether the proof is taken for that theorem."""
    try:
        DATABASE.verify(label, proof)
    except ProofError:
        return False
    return True


@pytest.mark.parametrize("label", GOOD)
def test_known_proofs_pass_for_their_own_theorem_alone(label):
    same_statement = {"id", "idz"} if label in ("id", "idz") else {label}
    assert {other for other in GOOD if proves(other, GOOD[label])} == same_statement


def mutations(proof, rng):
    """The proof with one token left out, doubled, exchanged for another or swapped with its neighbour."""
    tokens = proof.split()
    for i, token in enumerate(tokens):
        yield [*tokens[:i], *tokens[i + 1 :]]
        yield [*tokens[:i], token, *tokens[i:]]
        yield [
            *tokens[:i],
            rng.choice([t for t in ("wph", "wps", "ax-1", "ax-mp", "id") if t != token]),
            *tokens[i + 1 :],
        ]
        if i and tokens[i - 1] != token:
            yield [*tokens[: i - 1], token, tokens[i - 1], *tokens[i + 1 :]]


@pytest.mark.parametrize("label", [label for label in GOOD if label != "idz"])
def test_mutated_proofs_fail(label):
    for mutated in mutations(GOOD[label], random.Random(0)):
        with pytest.raises(ProofError):
            DATABASE.verify(label, " ".join(mutated))


@pytest.mark.parametrize(
    "proof",
    [
        "", "?", "id", "idz", "( ) A", "( wi ax-1 AAAB", "( wi wph ) A", "( wi ) AZ", "( wi ax-1 ax-2 ax-mp ) U",
        "( ) Z",
        "( ) " + "Y" * 60 + "A", "( wi ) a", "wph", "wph wph ax-1", "ax-mp", "syl", "$a |- ( ph -> ph ) $.", "min",
    ],
)  # fmt: skip
def test_what_is_no_proof_fails(proof):
    with pytest.raises(ProofError):
        DATABASE.verify("id", proof)


def test_condition_on_variables_is_kept():
    with pytest.raises(ProofError, match="disjoint"):
        DATABASE.verify("bad5", "vx vy weq vx ax-5")


@pytest.mark.parametrize(
    "text",
    [
        "$c a", "${", "$}", "x", "$c a $. t $p a $.", "t $a b $.", "$[ f.mm $]", "$c w $. $v x $. t $a w x $.", "$a $.",
        "$c a $. t $a a $. t $a a $.",
    ],
)  # fmt: skip
def test_broken_databases_are_told(text):
    with pytest.raises(DatabaseError):
        Database(text)


@pytest.mark.skipif(not shutil.which("metamath"), reason="needs the program metamath")
def test_the_metamath_program_agrees(tmp_path):
    rng = random.Random(3)
    cases = [(label, GOOD[label]) for label in GOOD]
    cases += [
        (label, " ".join(m)) for label in ("syl", "ax5d") for m in rng.sample(list(mutations(GOOD[label], rng)), 8)
    ]
    for label, proof in cases:
        (tmp_path / "test.mm").write_text(
            LOGIC.replace(GOOD[label], proof) if GOOD[label] in LOGIC else replace(label, proof)
        )
        script = f'read "{tmp_path / "test.mm"}"\nverify proof {label}\nexit\n'
        said = subprocess.run(["metamath"], input=script, capture_output=True, text=True, check=False).stdout
        assert proves(label, proof) == ("?Error" not in said), (label, proof, said)


def replace(label, proof):
    """The database with another proof of that label, whatever white space the old one has."""
    head, _, rest = LOGIC.partition(f"{label} $p")
    statement, _, tail = rest.partition("$=")
    return f"{head}{label} $p{statement}$= {proof} ${tail.partition('$')[2]}"


VERIFIER = get_verifier("proof", num_workers=1)


def make_problem(answer):
    return Problem(id="p", source="s", kind="proof", messages=(Message("user", "q"),), verifier="proof", answer=answer)


def answered(proof):
    return f"hm</think>\n\nHere:\n```\n{proof}\n```\n"


def test_verifier_judges_metamath_in_a_worker(tmp_path):
    inline = make_problem({"checker": "metamath", "database": LOGIC, "theorem": "id"})
    (tmp_path / "logic.mm").write_text(LOGIC)
    file = make_problem({"checker": "metamath", "database_file": str(tmp_path / "logic.mm"), "theorem": "syl"})
    pairs = [
        (inline, answered(GOOD["id"])), (inline, answered(f"id $p |- ( ph -> ph ) $= {GOOD['idz']} $.")),
        (inline, answered("id")), (inline, "</think>no block"), (file, answered(GOOD["syl"])),
        (file, answered(GOOD["id"])),
        (make_problem({"checker": "metamath", "database": LOGIC, "theorem": "none"}), answered("wph")),
        (make_problem({"checker": "metamath", "database": "${", "theorem": "id"}), answered("wph")),
        (make_problem({"checker": "isabelle"}), answered("x")), (make_problem(None), answered("x")),
        (make_problem({"checker": "metamath", "theorem": "id"}), answered("x")),
    ]  # fmt: skip
    statuses = [verdict.status for verdict in VERIFIER.verify_many(pairs)]
    assert statuses == ["correct", "correct", "wrong", "wrong", "correct", "wrong", *["unjudged"] * 5]


FAKE_REPL = """
import json, sys, time
script = json.loads(open(sys.argv[1]).read())
while block := sys.stdin.readline():
    while (line := sys.stdin.readline()) not in ("\\n", ""):
        block += line
    command = json.loads(block).get("cmd", "")
    answer = next((reply for key, reply in script if key in command), {"env": 1})
    if answer == "hang": time.sleep(600)
    if answer == "die": sys.exit(1)
    print(json.dumps(answer, indent=1) + "\\n", flush=True)
"""


def reply(data, severity="info"):
    return {"env": 1, "messages": [{"severity": severity, "data": data}]}


LEAN = {"checker": "lean", "type": "∀ a b : Nat, a + b = b + a", "name": "mine", "header": "import Lean"}
PROOF = "theorem mine : ∀ a b : Nat, a + b = b + a := Nat.add_comm"


def lean_verifier(tmp_path, *script):
    (tmp_path / "repl.py").write_text(FAKE_REPL)
    (tmp_path / "script.json").write_text(json.dumps(script))
    command = [sys.executable, str(tmp_path / "repl.py"), str(tmp_path / "script.json")]
    return get_verifier("proof", lean_command=command, lean_timeout_s=20.0, lean_memory_mib=0)


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ([["#print axioms", reply("'OpenQwQ.check' depends on axioms: [propext, Quot.sound]")]], "correct", ""),
        ([["#print", reply("'OpenQwQ.check' does not depend on any axioms")]], "correct", ""),
        ([["#print", reply("'OpenQwQ.check' depends on axioms: [sorryAx]")]], "wrong", "rests on sorryAx"),
        ([["theorem mine", reply("unsolved goals", "error")]], "wrong", "Lean error"),
        ([["theorem mine", {"env": 1, "sorries": [{"goal": "x"}]}]], "wrong", "sorry"),
        ([["theorem mine", {"message": "Unknown environment."}]], "wrong", "Lean error"),
        ([["theorem _root_.OpenQwQ.check", reply("type mismatch", "error")]], "wrong", "another statement"),
        ([["theorem mine", "die"]], "wrong", "crash"),
        ([["def _root_.OpenQwQ.goal", reply("no", "error")]], "unjudged", "the statement"),
        ([["import Lean", "die"]], "unjudged", "gone"), ([["#print", {"env": 1}]], "unjudged", "axioms"),
    ],
)  # fmt: skip
def test_lean_verdicts_follow_what_the_repl_says(tmp_path, script, status, reason):
    verdict = lean_verifier(tmp_path, *script)(make_problem(LEAN), answered(PROOF))
    assert verdict.status == status and reason in verdict.reason, verdict


@pytest.mark.parametrize(
    "proof",
    [
        "axiom cheat : False\n" + PROOF, "theorem mine := sorry", 'elab "#print" : command => pure ()',
        "macro_rules | x => y",
        "set_option debug.skipKernelTC true", "#eval 1", 'local notation "x" => y', "open Nat hiding add",
        "by native_decide",
        "def Foo.OpenQwQ.goal : Prop := True\nnamespace Foo", "simproc f (x) := fun e => g", "open\n  Real Lean Meta",
        "@[command_elab x] def f : Nat := 1", "def f := Lean.Elab.Command.x", "def f := «Lean».Meta.x",
        "import Evil", "run_cmd 1", "def f := Lean.sorryAx", "instance : Add Nat := OpenQwQ.goal",
        "@[implemented_by x] def f := 1",
    ],
)  # fmt: skip
def test_text_that_changes_the_rules_is_refused_before_lean_sees_it(tmp_path, proof):
    verdict = lean_verifier(tmp_path, ["", "die"])(make_problem(LEAN), answered(proof))
    assert verdict.status == "wrong" and verdict.reason.startswith("the proof uses")


def test_lean_without_a_repl_is_a_user_error_and_unreadable_tasks_are_unjudged(tmp_path):
    with pytest.raises(UserError, match="no Lean is configured"):
        VERIFIER(make_problem(LEAN), answered(PROOF))
    assert lean_verifier(tmp_path)(make_problem({"checker": "lean", "name": "x"}), answered(PROOF)).status == "unjudged"


def test_hanging_repl_is_killed_and_the_next_request_gets_a_new_one(tmp_path):
    (tmp_path / "repl.py").write_text(FAKE_REPL)
    (tmp_path / "script.json").write_text(json.dumps([["loop", "hang"], ["", {"env": 7}]]))
    repl = LeanRepl([sys.executable, str(tmp_path / "repl.py"), str(tmp_path / "script.json")], memory_mib=0)
    assert repl.ask({"cmd": "x"}, 20) == {"env": 7}
    with pytest.raises(ReplError, match="deadline"):
        repl.ask({"cmd": "loop"}, 0.2)
    assert repl.ask({"cmd": "x"}, 20) == {"env": 7}
    repl.close()
    with pytest.raises(ReplError, match="gone"):
        LeanRepl(["no-such-program"]).ask({"cmd": "x"}, 1)


REPLAY = """
import sys
answers = open(sys.argv[1], encoding="utf-8").read().strip().split("\\n\\n")
for answer in answers:
    for line in iter(sys.stdin.readline, "\\n"):
        pass
    sys.stdout.write(answer + "\\n\\n")
    sys.stdout.flush()
"""


def test_recorded_transcripts_are_read_answer_by_answer(tmp_path):
    if not TRANSCRIPTS.exists():
        pytest.skip("needs the developers' data set lean_repl_fixtures")
    (tmp_path / "replay.py").write_text(REPLAY)
    for file in sorted(TRANSCRIPTS.glob("*.in"))[::12]:
        recorded = file.with_name(f"{file.stem}.expected.out")
        expected = [json.loads(block) for block in recorded.read_text(encoding="utf-8").strip().split("\n\n")]
        repl = LeanRepl([sys.executable, "-S", str(tmp_path / "replay.py"), str(recorded)], memory_mib=0)
        requests = [json.loads(block) for block in file.read_text(encoding="utf-8").strip().split("\n\n")][
            : len(expected)
        ]
        assert [repl.ask(request, 20) for request in requests] == expected[: len(requests)], file.name
        repl.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"checker": "metamath", "database": "$c x $."}, {"checker": "metamath", "theorem": "a"}, {"checker": "coq"},
        {"checker": "metamath", "database": "x", "database_file": "y", "theorem": "a"},
        {"checker": "coq", "name": "t"}, {"checker": "lean", "name": "t"}, {"checker": "lean", "type": "True"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("completion", ["", "t</think>\n", "t</think>\n```\nproof\n```"])
def test_task_without_a_statement_is_unjudged_with_a_proof_or_without(answer, completion):
    problem = Problem(
        id="p", source="s", kind="proof", messages=(Message("user", "q"),), verifier="proof", answer=answer
    )
    verdict = get_verifier("proof", num_workers=1)(problem, completion)
    assert (verdict.status, verdict.reason.partition(":")[0]) == ("unjudged", "unreadable task")
