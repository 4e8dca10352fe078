"""How threads wait for each other: openqwq's number of rounds, unless the user has set one, and in time."""

import os
import subprocess
import sys

import pytest

from openqwq.cli import doctor

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def python(code, **environment):
    """stdout and stderr of a program without the settings of this process."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("10000", None)),
        ({"GOMP_SPINCOUNT": "7"}, ("7", None)),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, (None, "ACTIVE")),
    ],
)
def test_spin_count_is_set_where_the_user_has_set_none(environment, expected):
    printed = python(f"import openqwq, os; print(tuple(map(os.environ.get, {SETTINGS})))", **environment)
    assert printed.strip() == str(expected)


def test_torch_waits_as_openqwq_says():
    told = python("import openqwq, torch", OMP_DISPLAY_ENV="VERBOSE")
    if "GOMP_SPINCOUNT" not in told:
        pytest.skip("this torch has another OpenMP library than libgomp")
    assert "GOMP_SPINCOUNT = '10000'" in told


def test_doctor_says_that_torch_was_imported_first(monkeypatch):
    late = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"
    late += "import openqwq; print(openqwq.SPIN_COUNT_COMES_LATE)"
    assert python(late).strip() == "True"
    assert "import torch" not in doctor.check_threads().text
    monkeypatch.setattr(doctor, "SPIN_COUNT_COMES_LATE", True)
    found = doctor.check_threads()
    assert found.status == "warn" and "GOMP_SPINCOUNT=10000" in found.text
