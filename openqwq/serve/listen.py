"""Runs the application on a socket until it is told to stop, and then lets running requests end.

Public: Listener, Connection, bind.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openqwq.errors import UserError
from openqwq.log import logger

from .errors import error_body
from .sse import to_json
from .state import Server

# Idle connections and headers are bounded here, bodies in `Guard`.
KEEP_ALIVE_S = 30
HEADER_TIMEOUT_S = 30.0
# A reader that takes nothing for so long is gone for all we know; what waits for it would be held for ever.
WRITE_TIMEOUT_S = 60.0
MAX_HEADER_BYTES = 64 * 1024
BACKLOG = 1024


class Connection(H11Protocol):
    """Closed when a request's headers do not come in time: nothing was sent, or a byte now and then.

    Dropped, unsent bytes and all, when the other side takes nothing of an answer for `write_timeout_s`.
    What is no HTTP is refused in the form of all other errors.
    """

    header_timeout_s = HEADER_TIMEOUT_S
    write_timeout_s = WRITE_TIMEOUT_S
    _timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._timer is None and self.timeout_keep_alive_task is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reason = f"the request is not HTTP, or its headers are larger than {MAX_HEADER_BYTES} bytes"
            body = to_json(error_body(400, reason, code="not_http"))
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._watch_reader()

    def _watch_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(self.write_timeout_s, self._check_reader, unsent)

    def _check_reader(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() < unsent:
            self._watch_reader()
        else:
            self.transport.abort()  # to close it would wait for the reader

    def _stop_watching(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener(uvicorn.Server):
    """A uvicorn server that drains: after SIGTERM nothing new is taken in, and what runs may end.

    drain_timeout_s: after it, what still runs is cut off.
    """

    def __init__(self, app: Any, server: Server, *, host: str, port: int, drain_timeout_s: float = 120.0):
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Connection,
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
        logging.getLogger("asyncio").addFilter(_is_news)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests in; a second signal cuts off what runs. SIGTERM is no failure: the exit code is 0."""
        if self.should_exit:
            self.force_exit = True
            return
        logger.info("stopping: %d samples are under way and may end", self.state.admission.under_way)
        self.state.admission.draining = self.should_exit = True
        if sig != signal.SIGTERM:
            self._captured_signals.append(sig)


def _is_news(record: logging.LogRecord) -> bool:
    """asyncio warns of each piece that is written behind a client's back before the loop hears that it left."""
    return record.msg != "socket.send() raised exception."


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises UserError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small pieces wait 40 ms for an ACK
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="choose another `--host` or `--port`",
        ) from error
    return sock
