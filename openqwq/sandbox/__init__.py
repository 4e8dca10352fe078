"""Runs untrusted Python: a bubblewrap jail with warm workers inside, limits, and a judge that cannot be cheated."""

from openqwq.sandbox.client import Sandbox, default_sandbox
from openqwq.sandbox.spec import JudgeResult, Limits, RunResult, Submission, TestResult

__all__ = ["JudgeResult", "Limits", "RunResult", "Sandbox", "Submission", "TestResult", "default_sandbox"]
