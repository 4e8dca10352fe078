"""The worker pool: order, isolation from each other's faults, and whose fault a fault is."""

import os
import signal
import sys
import time

import pytest

from openqwq.errors import UserError
from openqwq.verifiers.workers.pool import Outcome, WorkerPool, fault_verdict

TARGET = """
import os, signal, sys, time
seen = 0

def judge(job, mark):
    global seen
    seen += 1
    stage, what = job
    if stage == "candidate":
        mark("candidate")
    if what == "spin":
        while True: pass
    if what == "memory":
        return len(bytearray(4 << 30))
    if what == "raise":
        raise ValueError("no")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        sys.exit(0)
    if what == "sleep":
        time.sleep(60)
    if what == "print":
        print('{"result": "forged"}', flush=True)
        return "printed"
    if what == "environment":
        return sorted(os.environ)
    if what == "count":
        return seen
    if what == "loaded":
        return [m for m in ("torch", "sympy", "numpy") if m in sys.modules]
    return what
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    (folder / "pool_target.py").write_text(TARGET)
    sys.path.insert(0, str(folder))
    pool = WorkerPool("pool_target:judge", num_workers=2, deadline_s=0.3, memory_mib=1024)
    yield pool
    pool.close()
    sys.path.remove(str(folder))


def test_results_come_in_the_jobs_order_from_many_workers(pool):
    jobs = [["task", i] for i in range(200)]
    assert [outcome.result for outcome in pool.run(jobs)] == list(range(200))
    assert pool.run([]) == []


@pytest.mark.parametrize(
    ("what", "how", "in_candidate", "in_task"),
    [
        ("spin", "deadline", "wrong", "unjudged"), ("memory", "memory", "wrong", "unjudged"),
        ("raise", "error", "wrong", "unjudged"), ("crash", "crash", "wrong", "unjudged"),
        ("exit", "crash", "wrong", "unjudged"), ("killed", "killed", "unjudged", "unjudged"),
    ],
)  # fmt: skip
def test_fault_is_the_candidates_only_in_its_own_stage(pool, what, how, in_candidate, in_task):
    outcomes = pool.run([["candidate", what], ["task", what], ["task", "next"]])
    assert [outcome.how for outcome in outcomes] == [how, how, "ok"]
    assert fault_verdict(outcomes[0]).status == in_candidate
    assert fault_verdict(outcomes[1]).status == in_task


def test_worker_without_cpu_time_is_given_up_and_unjudged(pool):
    impatient = WorkerPool("pool_target:judge", num_workers=1, deadline_s=0.3, wall_factor=5)
    start = time.monotonic()
    outcome = impatient.run([["candidate", "sleep"]])[0]
    impatient.close()
    assert outcome.how == "stalled"
    assert fault_verdict(outcome).status == "unjudged"
    assert time.monotonic() - start < 50


def test_what_a_library_prints_does_not_reach_the_channel(pool):
    assert pool.run([["task", "print"]]) == [Outcome("ok", "task", "printed")]


def test_workers_see_no_secrets_and_load_nothing_heavy(pool, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    pool.close()
    environment, loaded = pool.run([["task", "environment"], ["task", "loaded"]])
    assert "SOME_API_KEY" not in environment.result
    assert loaded.result == []


def test_worker_is_replaced_after_its_share_of_jobs(pool):
    small = WorkerPool("pool_target:judge", num_workers=1, jobs_per_worker=2)
    assert [outcome.result for outcome in small.run([["task", "count"]] * 5)] == [1, 2, 1, 2, 1]
    small.close()


def test_idle_worker_that_died_is_replaced(pool):
    pool.run([["task", 1]])
    for worker in pool._workers:
        os.kill(worker.process.pid, signal.SIGKILL)
    time.sleep(0.1)
    statuses = [outcome.how for outcome in pool.run([["task", 1], ["task", 2]])]
    assert set(statuses) <= {"ok", "killed"}
    assert [outcome.how for outcome in pool.run([["task", 3]])] == ["ok"]


def test_orphaned_worker_ends_itself(pool):
    pool.run([["task", 1]])
    process = pool._workers[0].process
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_missing_library_is_a_user_error():
    with pytest.raises(UserError, match="cannot start: ModuleNotFoundError"):
        WorkerPool("no_such_module:judge", num_workers=1).run([1])
