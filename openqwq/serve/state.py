"""What all requests of one server share: its models, its bounds, its counts.

Public: Server, ServeSettings.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from .admission import Admission
from .engine import ServedModel
from .errors import ApiError
from .metrics import Metrics

MIB = 2**20
MAX_RECENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What the server allows.

    api_keys:       any of them lets a client in; none: no key is asked for.
    allowed_hosts:  names in the Host header that are answered; empty: all. Keeps web pages that point a name of
                    theirs at this machine (DNS rebinding) from talking to a server on loopback.
    cors_origins:   web pages of these origins may read answers; empty: none.
    max_body_bytes: of a request.
    body_timeout_s: in which a request's body has to arrive.
    max_samples:    samples that run or wait at once; beyond them requests get 429.
    """

    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 16 * MIB
    body_timeout_s: float = 30.0
    max_samples: int = 512


@dataclass(slots=True)
class Server:
    """One server: models by name.

    default:    the model that answers requests which name none, and which clients see first; empty: the first one.
    experiment: the run whose checkpoints are compared, where there is one (`pages.Experiment`).
    recent:     texts of the last completions as they were sampled, kept for the experiment's verifiers.
    tasks:      what is done behind answered requests.
    """

    models: Mapping[str, ServedModel]
    settings: ServeSettings = field(default_factory=ServeSettings)
    experiment: Any = None
    metrics: Metrics = field(default_factory=Metrics)
    recent: dict[str, str] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    default: str = ""
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a server needs at least one model")
        self.admission = Admission(self.settings.max_samples)

    def keep(self, request_id: str, text: str) -> None:
        """Remember a completion's text for a while, if there is an experiment to judge it."""
        if self.experiment is not None:
            self.recent[request_id] = text
            while len(self.recent) > MAX_RECENT:
                del self.recent[next(iter(self.recent))]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have some work done that no request waits for; it is left undone when the server stops."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def listed(self) -> list[ServedModel]:
        """The models as clients see them: the one that answers unasked comes first."""
        return sorted(self.models.values(), key=lambda model: model.name != self.default)

    def model(self, name: str | None) -> ServedModel:
        """The model of that name. Raises ApiError 404 for another one."""
        if name is None:
            return self.listed[0]
        if name not in self.models:
            raise ApiError(
                404,
                f"there is no model {name!r}; served are {', '.join(self.models)}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]


def new_id(prefix: str) -> str:
    """An id that nobody guesses: whoever knows it may steer the request."""
    return f"{prefix}-{uuid.uuid4().hex}"
