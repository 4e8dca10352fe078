"""The engine that samples from a model: batched, KV-cached, with log-probs that training can trust.

- `LLM`           a model by its path; texts and conversations in, `RequestOutput` out
- `EngineConfig`  every option of an engine, with its default and one line of explanation
- `Engine`        one module; a `Policy`, and `add_request`, `step`, `abort` underneath
- `Speculation`   how tokens are guessed for an `Engine` and checked in one pass
- `QuantizedEngine` an `Engine` over a rounded copy of a model that is trained
- `AsyncEngine`   an `Engine` in a thread of its own, for event loops
"""

from openqwq.config import EngineConfig
from openqwq.types import SamplingParams, StructuredOutputs

from .async_engine import AsyncEngine, CompletionDelta
from .engine import Engine
from .llm import LLM
from .outputs import EngineStats, RequestOutput
from .quantized_engine import QuantizedEngine
from .speculative_config import Speculation

__all__ = [
    "LLM",
    "AsyncEngine",
    "CompletionDelta",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "QuantizedEngine",
    "RequestOutput",
    "SamplingParams",
    "Speculation",
    "StructuredOutputs",
]
