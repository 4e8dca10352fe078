"""Completion -> Verdict: correct, wrong (the candidate's fault) or unjudged (ours). No torch in here.

`get_verifier(name, **options)` makes one; `verify_all` judges a mixed batch.
"""

from .base import Verifier, answer_part, verifier_of, verify_all
from .registry import check_verifier_name, get_verifier, given_verifiers, needs_answer, verifier_names

__all__ = [
    "Verifier",
    "answer_part",
    "check_verifier_name",
    "get_verifier",
    "given_verifiers",
    "needs_answer",
    "verifier_names",
    "verifier_of",
    "verify_all",
]
