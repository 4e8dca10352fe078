"""Runs the application on a socket until it is told to stop, and then lets running requests end.

Public: Listener.
"""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import Any

import uvicorn

from openqwq.errors import UserError
from openqwq.log import logger

from .state import Server

# Idle connections and headers are bounded here, bodies in `Guard`.
KEEP_ALIVE_S = 30
MAX_HEADER_BYTES = 64 * 1024
BACKLOG = 1024


class Listener(uvicorn.Server):
    """A uvicorn server that drains: after SIGTERM nothing new is taken in, and what runs may end.

    drain_timeout_s: after it, what still runs is cut off.
    """

    def __init__(self, app: Any, server: Server, *, host: str, port: int, drain_timeout_s: float = 120.0):
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_graceful_shutdown=int(drain_timeout_s),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self.state = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests in; a second signal cuts off what runs. SIGTERM is no failure: the exit code is 0."""
        if self.should_exit:
            self.force_exit = True
            return
        logger.info("stopping: %d samples are under way and may end", self.state.admission.under_way)
        self.state.admission.draining = self.should_exit = True
        if sig != signal.SIGTERM:
            self._captured_signals.append(sig)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises UserError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="choose another `--host` or `--port`",
        ) from error
    return sock
