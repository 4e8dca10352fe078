"""A server on a loopback port and an engine that writes what the test says."""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from openqwq.serve import Server, ServeSettings, create_app  # noqa: E402
from openqwq.serve.listen import Listener  # noqa: E402
from openqwq.tokenizer import StreamDecoder  # noqa: E402


@dataclass(frozen=True)
class FakeDelta:
    index: int
    text: str
    token_ids: tuple
    logprobs: tuple
    finish_reason: str | None = None
    error: str = ""
    top_logprobs: tuple = ()
    num_cached_tokens: int = 0
    stop_reason: str | int | None = None


@dataclass
class FakeStats:
    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 8
    cached_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class FakeEngine:
    """Writes `text`, token by token, for every sample; a list is of token ids.

    finish: how a text ends when `max_tokens` did not end it. pause_s: between two tokens.
    """

    def __init__(self, tokenizer, text="", finish="stop", pause_s=0.0):
        self.tokenizer, self.text, self.finish, self.pause_s = tokenizer, text, finish, pause_s
        self.requests = []
        self.ended = []  # ids of requests that were left early
        self.told = []  # ids of requests whose thinking was to end
        self.running = 0
        self.stop_reason = None  # what ends a text that ends by itself
        self.closed = False

    async def generate(self, prompt_token_ids, params, request_id):
        self.requests.append((list(prompt_token_ids), params, request_id))
        self.running += params.n
        complete = False
        try:
            for index in range(params.n):
                async for delta in self._sample(index, params):
                    yield delta
            complete = True
        finally:
            self.running -= params.n
            if not complete:
                self.ended.append(request_id)

    async def _sample(self, index, params):
        ids = self.tokenizer.encode(self.text) if isinstance(self.text, str) else list(self.text)
        reason = self.finish if len(ids) < params.max_tokens else "length"
        ids = ids[: params.max_tokens]
        if reason == "stop":
            ids = [*ids[: params.max_tokens - 1], self.tokenizer.eos_token_id]
        decoder = StreamDecoder(self.tokenizer)
        for position, token_id in enumerate(ids):
            await asyncio.sleep(self.pause_s)
            last = position == len(ids) - 1
            text = "" if token_id == self.tokenizer.eos_token_id else decoder.push(token_id)
            text += decoder.finish() if last else ""
            ending = {"finish_reason": reason, "stop_reason": self.stop_reason} if last else {}
            yield FakeDelta(index, text, (token_id,), (-0.25,), **ending)

    async def close_thinking(self, request_id):
        self.told.append(request_id)
        return self.running > 0

    def stats(self):
        return FakeStats(running=self.running)

    def close(self):
        self.closed = True


@dataclass
class Running:
    url: str
    server: Server
    listener: Listener
    web: httpx.Client

    def client(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})


@contextlib.contextmanager
def running(models, **settings):
    """The server, listening, until the block ends."""
    server = Server({model.name: model for model in models}, ServeSettings(**settings))
    listener = Listener(create_app(server), server, host="127.0.0.1", port=0, drain_timeout_s=5)
    thread = threading.Thread(target=lambda: asyncio.run(listener.serve()), daemon=True)
    thread.start()
    wait_for(lambda: listener.started)
    port = listener.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    web = httpx.Client(base_url=url, timeout=60)  # one for all requests: making one costs more than a request
    try:
        yield Running(url, server, listener, web)
    finally:
        web.close()
        listener.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
