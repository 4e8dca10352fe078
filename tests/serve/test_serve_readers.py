"""Readers that are slow, readers that take nothing at all, and a request that has much to be read at once."""

import json
import socket
import threading
import time
from urllib.parse import urlparse

import pytest
from serve_support import FakeDelta, FakeEngine, running, wait_for

from openqwq.serve import ServedModel
from openqwq.serve.listen import Connection

TIMEOUT_S = 0.4
END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.fixture
def narrow(tokenizer, monkeypatch):
    """A server whose system takes few bytes from it, and its engine."""
    monkeypatch.setattr(Connection, "write_timeout_s", TIMEOUT_S)
    engine = FakeEngine(tokenizer, "</think>" + "word " * 150)
    model = ServedModel(name="m", engine=engine, tokenizer=tokenizer, max_model_len=2048, vocab_size=1024)
    with running([model]) as live:
        live.listener.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield live, engine


def asked(live, **body):
    """A socket with small buffers on which a chat request was sent."""
    place = urlparse(live.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect((place.hostname, place.port))
    data = json.dumps({"messages": [{"role": "user", "content": "hi"}], **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_that_takes_nothing_is_dropped_and_nothing_is_held_for_it(narrow, stream):
    live, engine = narrow
    with asked(live, stream=stream, n=4 if stream else 128) as sock:
        wait_for(lambda: engine.requests)
        begun = time.monotonic()
        wait_for(lambda: not live.listener.server_state.connections)
        assert time.monotonic() - begun >= TIMEOUT_S
        wait_for(lambda: engine.running == 0 and live.server.admission.under_way == 0)
        got = b"".join(iter(lambda: sock.recv(4096), b""))  # what the system had taken
        assert got.startswith(b"HTTP/1.1 200") and len(got) > 1000
        assert not got.endswith((END, b"}"))


def test_a_slow_reader_gets_everything(narrow):
    live, _ = narrow
    with asked(live, stream=True, n=3) as sock:
        begun, got = time.monotonic(), b""
        while not got.endswith(END):
            time.sleep(TIMEOUT_S / 8)
            piece = sock.recv(4096)
            assert piece
            got += piece
        assert time.monotonic() - begun > 2 * TIMEOUT_S
        assert got.count(b'"finish_reason":"stop"') == 3


class RushingEngine(FakeEngine):
    """Has everything ready at once: nothing is ever waited for."""

    async def _sample(self, index, params):
        for position in range(40_000):
            yield FakeDelta(index, "a", (1,), (0.0,), None if position < 39_999 else "length")


def test_other_requests_are_answered_while_much_is_read(tokenizer):
    engine = RushingEngine(tokenizer)
    model = ServedModel(name="m", engine=engine, tokenizer=tokenizer, max_model_len=2048, vocab_size=1024)
    with running([model]) as live:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        busy = threading.Thread(target=live.web.post, args=("/v1/chat/completions",), kwargs={"json": body})
        busy.start()
        wait_for(lambda: engine.running)
        assert live.web.get("/version").status_code == 200
        assert engine.running
        busy.join()
