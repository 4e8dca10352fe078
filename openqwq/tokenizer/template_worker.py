"""Chat templates rendered in jinja2's sandbox; as a program, in a process whose memory and time are bounded.

The program answers requests on stdin until it ends, one after the other: a length of 8 bytes and a JSON object
`{"template": ..., "names": {...}}` or `{"template": ..., "asked": "variables"}`. It needs nothing of this package.

Public: render_text, read_variables, TemplateFailure, CPU_SECONDS, MEMORY_BYTES, MAX_CHARACTERS.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# The longest real conversations take a tenth of a second; a template that needs more does something else.
CPU_SECONDS = 3.0
MEMORY_BYTES = 2**30
MAX_CHARACTERS = 2**24


class TemplateFailure(Exception):
    """A template that cannot be rendered, and why."""


def render_text(template: str, names: Mapping[str, Any]) -> str:
    """The text of a template with these names. Raises TemplateFailure for whatever goes wrong in it."""
    with _failing():
        return _compile(template).render(names)


def read_variables(template: str) -> list[str]:
    """The names that a template reads and does not set. Raises TemplateFailure for one that is not valid."""
    with _failing():
        environment = _environment()
        return sorted(meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals))


@contextmanager
def _failing() -> Any:
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailure(f"it is not valid jinja: {error}") from error
    except jinja2.TemplateError as error:
        raise TemplateFailure(str(error)) from error
    except MemoryError as error:
        raise TemplateFailure(f"it takes more than {MEMORY_BYTES >> 20} MiB of memory") from error
    except Exception as error:  # a template is a program: it may raise anything
        raise TemplateFailure(f"{type(error).__name__}: {error!s:.200}") from error


class _GenerationBlock(Extension):
    """`{% generation %}`, by which trainers mark the assistant's text for a loss mask: its contents, as they are."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own form

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that templates are written for: trimming, `tojson` and functions as in `transformers`."""
    extensions = [loopcontrols, _GenerationBlock]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # jinja2's own filter sorts keys and escapes `<`, which the model never saw in training
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate pair stays the escape it was


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request of the program's gets: `text`, `variables` or `error`."""
    try:
        if request.get("asked") == "variables":
            return {"variables": read_variables(request["template"])}
        text = render_text(request["template"], request["names"])
    except TemplateFailure as failure:
        return {"error": str(failure)}
    return {"text": text} if len(text) <= MAX_CHARACTERS else {"error": f"its text has {len(text)} characters"}


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    while header := source.read(8):
        body = source.read(int.from_bytes(header, "little"))
        _set_alarm(CPU_SECONDS)
        try:
            reply = json.dumps(answer(json.loads(body))).encode()
        except (MemoryError, RecursionError) as error:
            reply = json.dumps({"error": f"it is too large: {type(error).__name__}"}).encode()
        _set_alarm(0)
        sink.write(len(reply).to_bytes(8, "little") + reply)
        sink.flush()


def _set_alarm(seconds: float) -> None:
    """The system ends this process, wherever it is, after so many seconds of computing; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass  # a system without such limits: the caller's own deadline is left


if __name__ == "__main__":
    _bound_memory()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
