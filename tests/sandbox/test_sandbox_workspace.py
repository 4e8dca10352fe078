"""Programs among files: what they leave comes back, whole or not at all."""

import os
import threading

import pytest

from openqwq.sandbox import Limits
from openqwq.sandbox.cancellation import Cancelled, Ticket


def test_files_come_back_as_the_program_left_them(sandbox):
    code = "import os\nos.makedirs('d/e')\nopen('d/e/new', 'wb').write(bytes(range(256)))\nos.remove('gone')"
    result, files = sandbox.run_workspace(code, {"a/b": b"1", "gone": b"2"})
    assert result.status == "ok" and files == {"a/b": b"1", "d/e/new": bytes(range(256))}


def test_files_of_a_program_that_was_ended_come_back(sandbox):
    result, files = sandbox.run_workspace("open('a', 'w').write('1')\nwhile True: pass", {}, Limits(wall_s=1.0))
    assert result.status == "timeout" and files == {"a": b"1"}


@pytest.mark.parametrize(
    "code",
    [
        "for i in range(300): open(str(i), 'w').close()",
        "open('a', 'wb').write(bytes(9_000_000))",
        "open('x' * 210, 'w').close()",
        "open('a\\nb', 'w').close()",
        "import os\nopen(b'\\xff', 'w').close()",
    ],
)
def test_files_that_no_workspace_holds_are_not_half_taken(sandbox, code):
    result, files = sandbox.run_workspace(code, {"kept": b"1"})
    assert result.status == "ok" and files is None


def test_links_pipes_and_what_they_lead_to_are_left_out(sandbox):
    code = "import os\nos.symlink('/etc', 'etc')\nos.symlink('/etc/passwd', 'p')\nos.mkfifo('f')"
    assert sandbox.run_workspace(code, {"a": b""})[1] == {"a": b""}


def test_cancelled_run_leaves_no_descriptor(warm_sandbox):
    warm_sandbox.run_workspace("", {})
    ticket = Ticket()
    before = len(os.listdir("/proc/self/fd"))
    threading.Timer(0.3, ticket.cancel).start()
    with pytest.raises(Cancelled):
        warm_sandbox.run_workspace("while True: pass", {}, Limits(wall_s=30.0), ticket)
    assert len(os.listdir("/proc/self/fd")) <= before
