"""What the tests of reports share."""

import pytest
from eval_run_folders import make_run_folder


@pytest.fixture
def run_folder(tmp_path):
    return make_run_folder(tmp_path / "run")
