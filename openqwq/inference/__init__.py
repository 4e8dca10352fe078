"""The engine that samples from a model: batched, KV-cached, with log-probs that training can trust.

- `LLM`     a model by its path; texts and conversations in, `RequestOutput` out
- `Engine`  one module; a `Policy`, and `add_request`, `step`, `abort` underneath
"""

from openqwq.types import SamplingParams

from .engine import Engine, RequestOutput
from .llm import LLM

__all__ = ["LLM", "Engine", "RequestOutput", "SamplingParams"]
