"""The fixtures of the server's tests: a tokenizer, an engine that writes what a test says, a server, a client."""

import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tokenizer"))

from serve_support import FakeEngine, running

from openqwq.serve import ServedModel
from openqwq.tokenizer import Tokenizer

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing = "no chromium or google-chrome on this machine"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    options = ["--no-sandbox", "--disable-dev-shm-usage"]  # containers have no user namespaces and a small /dev/shm
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load(BASE)


@pytest.fixture(scope="module")
def engine(tokenizer):
    return FakeEngine(tokenizer)


@pytest.fixture(scope="module")
def live(engine, tokenizer):
    """A server with one model, `fake`; tests set `engine.text`."""
    model = ServedModel(
        name="fake",
        engine=engine,
        tokenizer=tokenizer,
        max_model_len=2048,
        vocab_size=1024,
        defaults={"temperature": 0.6, "top_p": 0.95, "top_k": 40},
    )
    with running([model]) as started:
        yield started


@pytest.fixture(scope="module")
def client(live):
    with live.client() as made:
        yield made
