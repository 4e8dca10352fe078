"""What stands before every request: names, keys, kinds and sizes, checked before anything else is read.

Public: Guard.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, error_body
from .metrics import Metrics
from .sizes import MAX_BRACKETS
from .sse import JsonResponse
from .state import ServeSettings

OPEN_PATHS = ("/health", "/", "/favicon.ico")
OPEN_FOLDERS = ("/page/",)
BODY_METHODS = ("POST", "PUT", "PATCH")


class Guard:
    """ASGI middleware; a refusal is OpenAI's error object."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            body = error_body(error.status_code, error.message, error.param, error.code)
            await JsonResponse(body, error.status_code, error.headers)(scope, receive, counted_send)
        else:
            await self.app(scope, self._bounded(receive), counted_send)
        finally:
            route = scope.get("route")
            self.metrics.responses[getattr(route, "path", "other"), status] += 1

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get("host", ""))
        self._check_key(scope["path"], headers)
        if scope["method"] in BODY_METHODS:
            self._check_body(headers)

    def _check_host(self, host: str) -> None:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self.settings.allowed_hosts and name not in self.settings.allowed_hosts:
            raise ApiError(403, f"the host {name!r} is not one of this server's names", code="host_not_allowed")

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if not self.keys or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # every key is compared, in a time that does not tell how much of one was right
        matches = [hmac.compare_digest(given.encode("latin-1"), key) for key in self.keys]
        if not any(matches):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_body(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.settings.max_body_bytes:
            raise self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        has_body = length != "0" or "transfer-encoding" in headers
        if has_body and kind != "application/json":
            # web pages of other sites can send forms and plain text unasked, but not JSON
            raise ApiError(415, f"the body is {kind or 'of no kind'}; send `Content-Type: application/json`")

    def _too_large(self) -> ApiError:
        limit = self.settings.max_body_bytes
        return ApiError(413, f"the body is larger than {limit} bytes, which is the limit", code="body_too_large")

    def _bounded(self, receive: Receive) -> Receive:
        """The same messages; too many bytes, too many objects in them or too slow ones raise."""
        size = brackets = 0
        whole = False
        deadline = asyncio.get_running_loop().time() + self.settings.body_timeout_s

        async def bounded() -> Any:
            nonlocal size, brackets, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self.settings.body_timeout_s
                raise ApiError(408, f"the body did not arrive within {seconds:g} seconds", code="timeout") from None
            part = message.get("body", b"")
            size += len(part)
            brackets += part.count(b"[") + part.count(b"{")
            whole = not message.get("more_body", False)
            if size > self.settings.max_body_bytes:
                raise self._too_large()
            if brackets > MAX_BRACKETS:
                raise ApiError(400, f"the body has more than {MAX_BRACKETS} objects and lists", code="invalid_value")
            return message

        return bounded
