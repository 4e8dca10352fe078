"""Admission: references pass, cheap answers fail, or the problem is refused with its reason."""

import pytest

from openqwq.data.curation.admission import Candidate, admit
from openqwq.sandbox import Sandbox
from openqwq.sandbox.languages import find_toolchains
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import Verifier, get_verifier
from openqwq.verifiers.code.verifier import CodeVerifier

MATH = {"math": get_verifier("math", num_workers=1)}


def make_problem(answer, verifier="math", name="p"):
    return Problem(id=name, source="s", kind="k", messages=(Message("user", "q"),), verifier=verifier, answer=answer)


def decide(problem, reference=None, verifiers=MATH):
    decision = admit([Candidate(problem, reference)], verifiers)[0]
    return decision.reason if not decision.admitted else "admitted"


@pytest.mark.parametrize(
    "gold", ["7", "0", "-12", r"\frac{3}{4}", r"\sqrt{2}", "(1,2)", r"\text{east}", "A", "x+1", "10"]
)
def test_sound_problems_are_admitted(gold):
    assert decide(make_problem(gold)) == "admitted"


def test_problems_without_a_passing_reference_are_refused():
    assert decide(make_problem("7"), "8") == "the reference answer fails"
    assert decide(make_problem(None)) == "no reference answer"
    assert decide(make_problem(None), "8") == "the reference answer cannot be judged"
    assert decide(make_problem(r"2x+1 \frac{"), "x") == "the reference answer cannot be judged"


class Lax(Verifier):
    """Pays what its option says."""

    name = "lax"

    def __init__(self, pays):
        super().__init__()
        self.pays = pays

    def __call__(self, problem, completion):
        answer = completion.rpartition("\n\n")[2]
        return Verdict.correct() if self.pays(problem.answer, answer) else Verdict.wrong("no")


@pytest.mark.parametrize(
    ("pays", "reason"),
    [
        (lambda gold, answer: True, "the empty answer passes"),
        (lambda gold, answer: answer != "", "the constant answer passes"),
        (lambda gold, answer: gold in answer, "the shotgun answer passes"),
        (lambda gold, answer: len(answer) == len(gold), "the random answer passes"),
        (lambda gold, answer: gold == answer, "admitted"), (lambda gold, answer: False, "the reference answer fails"),
    ],
)  # fmt: skip
def test_verifiers_that_pay_for_less_than_the_answer_are_found_out(pays, reason):
    assert decide(make_problem("73", "lax"), "73", {"lax": Lax(pays)}) == reason


def test_library_scorers_with_holes_would_be_refused_and_our_rules_are_not():
    import reasoning_gym

    for dataset, hole in (("chain_sum", 1 / 8), ("countdown", 0.01), ("game_of_life_halting", 1.0)):
        data = reasoning_gym.create_dataset(dataset, size=1, seed=3)
        entry = data[0]
        score = data.score_answer
        problem = make_problem({"dataset": dataset, "entry": dict(entry)}, "reasoning_gym")
        lax = Lax(lambda gold, answer, s=score, e=entry: s(answer.removeprefix("\\boxed{")[:-1], e) > 0)
        lax.name = "reasoning_gym"
        assert decide(problem, None, {"reasoning_gym": lax}).endswith("passes"), (dataset, hole)
        assert decide(problem, None, {"reasoning_gym": get_verifier("reasoning_gym", num_workers=1)}) == "admitted", (
            dataset
        )


def test_programs_calls_and_proofs_are_written_as_their_kind_asks():
    tests = [{"args": [1], "expected": 2}, {"args": [5], "expected": 6}]
    code = make_problem({"mode": "function", "entry_point": "f", "tests": tests}, "code")
    echo = make_problem({"mode": "stdio", "tests": [{"stdin": "4", "stdout": "8"}]}, "code")
    lax = make_problem({"mode": "function", "entry_point": "f", "tests": [{"args": [], "expected": 0}]}, "code")
    with Sandbox(workers=1) as sandbox:
        verifiers = {"code": CodeVerifier(wall_s=20, sandbox=sandbox)}
        assert decide(code, "def f(x):\n    return x + 1", verifiers) == "admitted"
        assert decide(echo, "print(2 * int(input()))", verifiers) == "admitted"
        assert decide(lax, "def f():\n    return 0", verifiers) == "the constant answer passes"
        assert decide(code, None, verifiers) == "no reference answer"
    function = {"name": "g", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}}
    calls = {"tool_call": get_verifier("tool_call")}
    assert (
        decide(make_problem({"functions": [function], "calls": [{"g": {"a": [3]}}]}, "tool_call"), None, calls)
        == "admitted"
    )
    database = "$c a b $. t $a a b $. g $p a b $= ? $."
    proof = make_problem({"checker": "metamath", "database": database, "theorem": "g"}, "proof")
    assert decide(proof, "t", {"proof": get_verifier("proof", num_workers=1)}) == "admitted"


def test_programs_of_another_language_are_written_in_it():
    if "cpp" not in find_toolchains():
        pytest.skip("needs a toolchain for cpp")
    reference = '#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }'
    tests = [{"stdin": "4", "stdout": "8"}]
    double = make_problem({"mode": "stdio", "tests": tests, "language": "cpp"}, "code")
    nothing = make_problem({"mode": "stdio", "tests": [{"stdin": "0", "stdout": "0"}], "language": "cpp"}, "code")
    with Sandbox(workers=1) as sandbox:
        verifiers = {"code": CodeVerifier(wall_s=20, sandbox=sandbox)}
        assert decide(double, reference, verifiers) == "admitted"
        assert decide(nothing, reference, verifiers) == "the constant answer passes"


def test_decisions_are_the_same_every_time():
    candidates = [Candidate(make_problem(str(n), name=str(n))) for n in range(5)]
    assert admit(candidates, MATH) == admit(candidates, MATH)
