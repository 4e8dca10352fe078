"""Rule-based instruction following: IFEval's kinds, judged by small pure functions.

`checks.py` has the kinds, `text.py` the counting, `verifier.py` the verdict.
"""

from .checks import CHECKS
from .verifier import InstructionsVerifier, require_supported

__all__ = ["CHECKS", "InstructionsVerifier", "require_supported"]
