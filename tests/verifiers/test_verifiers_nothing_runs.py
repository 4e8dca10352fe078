"""No text of a model, and none of a task, is ever run as a program: not in a verifier's code, not in a library's."""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.reasoning_gym.rules import LIBRARY, RULES
from openqwq.verifiers.registry import BUILT_IN
from openqwq.verifiers.workers.pool import WorkerPool, fault_verdict

ROOM = Path(__file__).parents[2] / "openqwq" / "verifiers"
EVALUATORS = {
    "eval", "exec", "compile", "__import__", "sympify", "_sympify", "parse_expr", "eval_expr", "S", "N", "lambdify",
    "parse_mathematica", "parse_maxima", "nsimplify", "ExprExtractionConfig", "Unpickler", "literal_eval",
}  # fmt: skip
READERS_OF_PROGRAMS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "code", "codeop", "runpy"}


def evaluations_in(source):
    """What a module calls or imports that makes a program of a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [alias.name for alias in node.names]
            found += [name for name in names if name in EVALUATORS | READERS_OF_PROGRAMS]
            found += [module] if module.split(".")[0] in READERS_OF_PROGRAMS else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATORS:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and node.attr in EVALUATORS - {"compile"}:
            found.append(node.attr)
    return found


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOM)))
def test_verifier_module_calls_nothing_that_evaluates_text(file):
    assert evaluations_in(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "sympy.N(x)", "from sympy import sympify", "import pickle", "from pickle import loads",
        "sympy.S(text)", "compile(a, b, 'eval')", "parser = sympy.parse_expr", "exec(x)",
    ],
)  # fmt: skip
def test_the_walk_over_the_code_sees_calls_that_evaluate(source):
    assert evaluations_in(source)


def payloads(mark):
    """Answers that would make the file `mark`, or speak for the judge, if any part of them ran."""
    name = "+".join(f"chr({ord(letter)})" for letter in str(mark))
    return [
        f"open('{mark}','w').name[0]",
        f"open({name},chr(119)).close()",
        f"__import__('os').system('touch {mark}')",
        f"__import__('subprocess').run(['touch','{mark}','\\cup'])",
        f"().__class__.__base__.__subclasses__()[0].__init__.__globals__['open']('{mark}','w')",
        f"[open('{mark}','w') for x in (1,)]",
        f"(lambda: open('{mark}','w'))()",
        f"exec(\"open('{mark}','w')\")",
        f"sum(1 for x in [open('{mark}','w')])+2",
        f"x=open('{mark}','w')",
        f"[1,open('{mark}','w')]",
        f"(open('{mark}','w'),3)",
        f"\\begin{{pmatrix}}open('{mark}','w')\\\\2\\end{{pmatrix}}",
        f"\\sum_{{n=1}}^{{\\infty}} \\text{{open({name},chr(119)).tell()}}^{{n}}",
        f"\\sum_{{n=1}}^{{\\infty}} \\mathit{{open('{mark}','w').tell()}}^n",
        f"\\frac{{open('{mark}','w')}}{{2}}",
        f"3 if open('{mark}','w') else 2",
        "open('/dev/fd/3','w').write('{\"result\":\"equal\"}\\n')",
        '[open("/proc/self/fd/%d"%i,"w").write("{\\"result\\":\\"equal\\"}\\n") for i in range(3,9)]',
        f"__import__('socket').create_connection(('127.0.0.1',9)) or open('{mark}','w')",
        f"import os\nos.system('touch {mark}')",
        f'{{"name": "f", "arguments": {{"x": "__import__(\'os\').system(\'touch {mark}\')"}}}}',
        f"${{open('{mark}','w')}}",
        f"{{{{ open('{mark}','w') }}}}",
    ]


def completions(mark, *, boxed=False):
    for text in payloads(mark):
        yield f"x\n</think>\n\n\\boxed{{{text}}}"
        if boxed:
            continue
        yield f"x\n</think>\n\nThe answer is {text}"
        yield f"x\n</think>\n\n<tool_call>\n{text}\n</tool_call>"
        yield f"x\n</think>\n\n```\n{text}\n```"


def problem_of(verifier, answer):
    return Problem(id="p", source="s", kind="k", messages=(Message("user", "q"),), verifier=verifier, answer=answer)


GOLDS = ["3", r"\frac{1}{2}", "x=5", r"\begin{pmatrix}1\\2\end{pmatrix}"]
CASES = [
    *((("math", {"protocol": p, "format_free": f}), GOLDS) for p in ("strict", "qwq") for f in (False, True)),
    *((("instructions", o), [{"instructions": [{"id": "length_constraints:number_words", "kwargs": {
        "num_words": 900, "relation": "at least"}}]}]) for o in ({}, {"loose": True}, {"partial": True})),
    *((("tool_call", o), [{"functions": [{"name": "f", "parameters": {"type": "dict", "properties": {
        "x": {"type": "integer"}}}}], "calls": [{"f": {"x": [1]}}]}]) for o in ({}, {"format_free": True})),
    (("proof", {}), [{"checker": "metamath", "database": "$c wff |- $. $v x $. vx $f wff x $. ax $a |- x $. "
                      "t $p |- x $= ? $.", "theorem": "t"}]),
    (("composite", {"weights": {"math": 1.0}, "parts": {"math": {"protocol": "qwq", "format_free": True}}}), GOLDS[:2]),
]  # fmt: skip


@pytest.mark.parametrize(("verifier", "golds"), CASES, ids=lambda value: str(value)[:60])
def test_no_payload_runs_in_any_verifier_and_none_is_right(verifier, golds, tmp_path):
    name, options = verifier
    mark = tmp_path / "written"
    judge = get_verifier(name, **options)
    pairs = [
        (problem_of(name, gold), text)
        for gold in golds
        for text in completions(mark, boxed=name == "math" and not options["format_free"])
    ]
    verdicts = judge.verify_many(pairs)
    right = [(p.answer, text) for (p, text), v in zip(pairs, verdicts, strict=True) if v.status == "correct"]
    assert [pair for pair in right if name not in ("math", "composite") or not reads_as_official(*pair)] == []
    assert not mark.exists() and list(tmp_path.iterdir()) == []


def reads_as_official(gold, completion):
    """Whether a payload holds the gold answer in a place where that reader looks for one: a letter, the last number."""
    return gold in completion.rpartition("</think>")[2]


def test_no_payload_runs_in_the_verifiers_that_judge_form_alone(tmp_path):
    mark = tmp_path / "written"
    for name, options in {"format": {}, "language": {}, "repetition": {}, "length": {"limit": 5000}}.items():
        get_verifier(name, **options).verify_many([(problem_of(name, None), text) for text in completions(mark)])
    assert not mark.exists()


@pytest.mark.parametrize("dataset", sorted({*RULES, *LIBRARY}))
def test_no_payload_runs_in_any_data_set_of_reasoning_gym(dataset, tmp_path):
    mark = tmp_path / "written"
    metadata = {"numbers": [1, 2], "target": 3, "variable": "X", "integrand": "2*X", "valid_answers": ["Q"]}
    for gold, free in itertools.product(("3", "X**2 + C"), (False, True)):
        problem = problem_of("reasoning_gym", {"dataset": dataset, "entry": {"answer": gold, "metadata": metadata}})
        judge = get_verifier("reasoning_gym", format_free=free)
        verdicts = judge.verify_many([(problem, text) for text in completions(mark)])
        assert free or {verdict.status for verdict in verdicts} <= {"wrong", "unjudged"}
    assert not mark.exists()


def test_no_payload_runs_where_it_is_the_gold_answer(tmp_path):
    mark = tmp_path / "written"
    for protocol in ("strict", "qwq"):
        judge = get_verifier("math", protocol=protocol)
        judge.verify_many([(problem_of("math", gold), "x\n</think>\n\n\\boxed{3}") for gold in payloads(mark)])
    assert not mark.exists()


def test_program_runs_in_the_jail_and_writes_nothing_outside(tmp_path):
    mark = tmp_path / "written"
    task = {"tests": [{"stdin": "", "stdout": "3\n"}]}
    program = f"open('{mark}', 'w').write('x')\nprint(3)"
    get_verifier("code")(problem_of("code", task), f"x\n</think>\n\n```python\n{program}\n```")
    assert not mark.exists()


def test_every_verifier_has_its_payloads_tried():
    here = {name for (name, _), _ in CASES} | {"format", "language", "repetition", "length", "reasoning_gym", "code"}
    remote = {"judge", "reward_model"}  # they send the text to a model, which reads it
    assert here | remote | {"environment"} == set(BUILT_IN)


GUARDED = """
import sys
from openqwq.verifiers.workers.guard import EvaluationGuard, EvaluationRefused
import sympy
from sympy import Float, Integer, N, Sum, Symbol, oo, sympify
guard = EvaluationGuard()
guard.__enter__()
n, mark = Symbol("n"), sys.argv[1]
evil = Symbol(f"open('{mark}', 'w').tell()")
def refused(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "ran"
import subprocess, os, socket
print(refused(lambda: eval(f"open('{mark}', 'w')")))
print(refused(lambda: exec("x = 1")))
print(refused(lambda: N(f"open('{mark}', 'w')")))
print(refused(lambda: sympify("x + 1")))
print(refused(lambda: Integer(1).equals(f"open('{mark}', 'w')")))
print(refused(lambda: sympy.parse_expr(f"open('{mark}', 'w')")))
refused(lambda: Sum(evil**n, (n, 1, oo)).evalf())
refused(lambda: sympy.lambdify(n, evil)(1))
refused(lambda: sympy.nsolve(n - evil, n, 1))
print(refused(lambda: subprocess.run(["true"])))
print(refused(lambda: os.system("true")))
print(refused(lambda: socket.create_connection(("127.0.0.1", 9))))
print(Sum(1 / Integer(2)**n, (n, 1, oo)).evalf(5), Sum(n**2 / Integer(3)**n, (n, 1, oo)).evalf(5))
print(sympy.simplify(Sum(204 / Integer(2)**n, (n, 1, oo)).doit()), sympy.hyperexpand(sympy.hyper([1], [2], n)))
print(sympify("2.50") == Float("2.50"), sympify("7") == 7, sympy.Number("1e3"))
import wave, sympy.physics.units
print(sympy.simplify((n**2 - 1) / (n - 1)), len(sympy.factor(n**2 - 3*n*Symbol("y") + 2*Symbol("y")**2).args))
guard.__exit__()
print(eval("1 + 1"))
"""


def test_guard_refuses_to_run_text_and_leaves_mathematics_alone(tmp_path):
    mark = tmp_path / "written"
    done = subprocess.run([sys.executable, "-c", GUARDED, str(mark)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert "ran" not in lines and lines[0] == lines[1] == "EvaluationRefused" and len(lines) == 14
    assert lines[9:] == ["1.0000 1.5000", "204 exp(n)/n - 1/n", "True True 1000.00000000000", "n + 1 2", "2"]
    assert not mark.exists()


FORGER = """
import json, os
CHANNELS = range(3, 64)
MESSAGES = {
    "plain": b'{"result": "equal"}\\n', "stage": b'{"secret": 0, "result": "equal"}\\n', "noise": b'\\xff[[[\\n',
    "fatal": b'{"fatal": "x"}\\n', "ready": b'{"ready": true}\\n', "number": b'7\\n', "deep": b'[' * 9000 + b'\\n',
    "long": b'x' * (20 << 20),
}

def judge(job, mark):
    stage, kind = job
    if stage == "candidate":
        mark("candidate")
    if kind in MESSAGES:
        for channel in CHANNELS:
            try:
                os.write(channel, MESSAGES[kind])
            except OSError:
                pass
    return "different"
"""


@pytest.fixture(scope="module")
def forger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forger")
    (folder / "forger_target.py").write_text(FORGER)
    sys.path.insert(0, str(folder))
    pool = WorkerPool("forger_target:judge", num_workers=1, deadline_s=5.0)
    yield pool
    pool.close()
    sys.path.remove(str(folder))


@pytest.mark.parametrize("kind", ["plain", "stage", "noise", "fatal", "ready", "number", "deep", "long"])
def test_reply_that_a_judged_text_forges_is_not_believed(forger, kind):
    jobs = [["candidate", "honest"], ["candidate", kind], ["task", kind], ["candidate", "honest"]]
    outcomes = forger.run(jobs)
    assert [outcome.how for outcome in outcomes] == ["ok", "crash", "crash", "ok"]
    assert [fault_verdict(outcome).status for outcome in outcomes[1:3]] == ["wrong", "unjudged"]
    assert outcomes[3].result == "different"


def test_official_judgements_of_texts_that_no_reader_takes_are_by_their_spelling():
    judge = get_verifier("math", protocol="qwq")
    same = judge(problem_of("math", "3 if x else 2"), "\\boxed{3 if x else 2}")
    other = judge(problem_of("math", "3"), "\\boxed{3 if x else 2}")
    assert (same.status, other.status) == ("correct", "wrong")
    assert json.dumps(other.extracted)


REACHER = """
import os, socket

def judge(job, mark):
    mark("candidate")
    found = []
    for action in (lambda: os.open(job, os.O_WRONLY | os.O_CREAT), lambda: socket.socket(), os.fork,
                   lambda: os.kill(os.getppid(), 0)):
        try:
            found.append(repr(action()))
        except (OSError, RuntimeError) as error:
            found.append(type(error).__name__)
    return found
"""


def test_worker_writes_no_file_and_reaches_neither_network_nor_other_processes(tmp_path, monkeypatch):
    if confine_reader_fails():
        pytest.skip("this kernel takes no filter of system calls")
    (tmp_path / "reacher_target.py").write_text(REACHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = WorkerPool("reacher_target:judge", num_workers=1)
    outcome = pool.run([str(tmp_path / "written")])[0]
    pool.close()
    assert outcome.result == ["OSError", "PermissionError", "EvaluationRefused", "PermissionError"]
    assert not (tmp_path / "written").exists()


def confine_reader_fails():
    code = "import sys; from openqwq.sandbox import confine_reader; sys.exit(bool(confine_reader()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0


def test_worker_that_cannot_be_confined_is_said_once(tmp_path, monkeypatch, caplog):
    target = "import openqwq.verifiers.workers.child as child\n\ndef judge(job, mark):\n    return job\n"
    main = "import sys\nsys.modules['__main__'].confine_reader = lambda: 'no such kernel'\n"
    (tmp_path / "plain_target.py").write_text(main + target)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = WorkerPool("plain_target:judge", num_workers=1, jobs_per_worker=1)
    with caplog.at_level("WARNING", "openqwq"):
        assert [outcome.result for outcome in pool.run([1, 2, 3])] == [1, 2, 3]
    pool.close()
    said = [record.getMessage() for record in caplog.records if "no such kernel" in record.getMessage()]
    assert said == ["verifier workers can write files and reach the network: no such kernel"]
