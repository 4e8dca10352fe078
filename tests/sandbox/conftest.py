"""The sandbox in both ways of working; one worker, so that each job follows the last one in the same jail."""

import pytest

from openqwq.sandbox import Sandbox


@pytest.fixture(scope="session", params=["warm", "jail_per_job"])
def sandbox(request):
    with Sandbox(workers=1, jobs_per_jail=1 if request.param == "jail_per_job" else 1000) as made:
        yield made


@pytest.fixture(scope="session")
def warm_sandbox():
    with Sandbox(workers=2) as made:
        yield made
