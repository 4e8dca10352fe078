"""Runs untrusted programs: a bubblewrap jail with warm workers inside, limits, and a judge that cannot be cheated.

In this process (`Sandbox`), or as a service of its own (`openqwq sandbox serve`, `RemoteSandbox`).
"""

from .base import BaseSandbox
from .client import Sandbox, check_place, default_sandbox, find_sandbox, set_default_sandbox
from .http.remote import RemoteSandbox
from .reader import confine_reader
from .spec import JudgeResult, Limits, RunResult, Submission, TestResult

__all__ = [
    "BaseSandbox",
    "JudgeResult",
    "Limits",
    "RemoteSandbox",
    "RunResult",
    "Sandbox",
    "Submission",
    "TestResult",
    "check_place",
    "confine_reader",
    "default_sandbox",
    "find_sandbox",
    "set_default_sandbox",
]
