"""Requests for samples to samples: from a policy in this process, or from any OpenAI-compatible server.

A failed request is `Failed`, never a sample. Samples come as they finish, one by one.

Public: `Request`, `Sampled`, `Failed`, `Sampler`, `PolicySampler`, `ServerSampler`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from openqwq.errors import UserError
from openqwq.json_client import ChatClient, NoAnswer
from openqwq.rollout import SteppedPolicy, render_problem
from openqwq.types import Completion, Policy, Problem, Prompt, SamplingParams

from ..evaluate import Encoder

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CLOSING = f"\n{THINK_CLOSE}\n\n"
FINISHED = ("stop", "length", "repetition")
IN_FLIGHT = 64
"""Requests that a policy in this process holds at a time; more would only wait."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sample that is wanted: the problem, the sample's number, and its sampling with a seed of its own."""

    problem: Problem
    index: int
    params: SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One sample. tokens: None where the server does not count them."""

    request: Request
    text: str
    thinking_opened: bool
    finish_reason: str
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A request without a sample, and why."""

    request: Request
    error: str


Outcomes = Generator[Sampled | Failed, None, None]
"""Closing it gives up what is still asked for."""


class Sampler(Protocol):
    """Anything that answers requests."""

    def __call__(self, requests: Sequence[Request]) -> Outcomes:
        """An outcome for each request, in any order."""
        ...


class PolicySampler:
    """Samples from a policy: token by token where it can be stepped, else problem by problem."""

    def __init__(self, policy: Policy, tokenizer: Encoder):
        self.policy, self.tokenizer = policy, tokenizer

    def __call__(self, requests: Sequence[Request]) -> Outcomes:
        """See `Sampler`; in order where the policy cannot be stepped."""
        policy: Any = self.policy
        if hasattr(policy, "add_request") and hasattr(policy, "step"):
            yield from self._step(policy, requests)
            return
        for request in requests:
            prompt = self._render(request)
            if isinstance(prompt, Failed):
                yield prompt
            else:
                [[completion]] = self.policy.generate([prompt], request.params)
                yield _outcome(request, prompt, completion)

    def _render(self, request: Request) -> Prompt | Failed:
        try:
            return render_problem(self.tokenizer, request.problem)
        except (ValueError, UserError) as error:
            return Failed(request, f"the problem cannot be rendered: {error}")

    def _step(self, policy: SteppedPolicy, requests: Sequence[Request]) -> Outcomes:
        waiting = iter(enumerate(requests))
        running: dict[str, tuple[Request, Prompt]] = {}
        more = True
        try:
            while running or more:
                while more and len(running) < IN_FLIGHT:
                    number, request = next(waiting, (-1, None))
                    if request is None:
                        more = False
                        break
                    prompt = self._render(request)
                    failed = prompt if isinstance(prompt, Failed) else _enter(policy, request, prompt, str(number))
                    if failed is not None:
                        yield failed
                    elif isinstance(prompt, Prompt):
                        running[str(number)] = (request, prompt)
                if not running:
                    continue
                for output in policy.step():
                    request, prompt = running.pop(output.request_id)
                    yield _outcome(request, prompt, output.outputs[0])
        finally:
            for name in running:
                policy.abort(name)


def _enter(policy: SteppedPolicy, request: Request, prompt: Prompt, name: str) -> Failed | None:
    try:
        policy.add_request(prompt.token_ids, request.params, name)
    except UserError as error:
        return Failed(request, error.message)
    return None


def _outcome(request: Request, prompt: Prompt, completion: Completion) -> Sampled | Failed:
    if completion.finish_reason == "abort":
        return Failed(request, completion.error or "the policy gave the completion up")
    return Sampled(
        request=request,
        text=completion.text,
        thinking_opened=bool(prompt.thinking_opened),
        finish_reason=completion.finish_reason,
        tokens=len(completion.token_ids),
    )


class ServerSampler:
    """Samples of one model of a server, `workers` requests at a time.

    The first request is sent alone: a server that refuses it (a wrong key, a parameter that it does not take) ends the
    run before it costs anything, unless `keeps_refusals`. Later refusals are failures of their requests.
    """

    def __init__(self, client: ChatClient, *, workers: int = 8, keeps_refusals: bool = False):
        self.client, self.workers = client, workers
        self._raises = not keeps_refusals

    def __call__(self, requests: Sequence[Request]) -> Outcomes:
        """See `Sampler`. Raises UserError when the very first request is refused."""
        if not requests:
            return
        yield self._ask(requests[0], raises=self._raises)
        self._raises = False
        waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[Sampled | Failed | BaseException] = queue.SimpleQueue()
        for request in requests[1:]:
            waiting.put(request)
        stopped = threading.Event()
        for _ in range(min(self.workers, len(requests) - 1)):
            # daemons: a request in flight does not keep an interrupted run from ending
            threading.Thread(target=self._work, args=(waiting, outcomes, stopped), daemon=True).start()
        try:
            for _ in requests[1:]:
                outcome = outcomes.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            stopped.set()

    def _work(self, waiting: queue.SimpleQueue, outcomes: queue.SimpleQueue, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                request = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                outcomes.put(self._ask(request, raises=False))
            except BaseException as error:  # a fault of ours, raised where the samples are read
                outcomes.put(error)
                return

    def _ask(self, request: Request, *, raises: bool) -> Sampled | Failed:
        params = request.params
        messages = [{"role": message.role, "content": message.content} for message in request.problem.messages]
        sampling = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_tokens": params.max_tokens,
            "seed": params.seed,
        }
        try:
            answer = self.client.ask(self.client.body(messages, sampling), _read_answer)
        except NoAnswer as error:
            return Failed(request, str(error))
        except UserError as error:
            if raises:
                raise
            return Failed(request, error.message)
        return Sampled(request=request, **answer)


def _read_answer(response: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Sampled` from a response. Raises ValueError for one that is no whole answer.

    The text is as QwQ's template has it: the reasoning, wherever the server puts it, then `</think>` and the answer.
    """
    choice = response["choices"][0]
    finish_reason, message = choice.get("finish_reason"), choice["message"]
    content = message.get("content")
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str | None) or not isinstance(reasoning, str):
        raise ValueError("the message's content or reasoning is no text")
    if finish_reason not in FINISHED:
        raise ValueError(f"the answer is not whole: its `finish_reason` is {finish_reason!r}")
    if content is None and not reasoning and finish_reason != "length":
        raise ValueError("the answer has neither content nor reasoning")
    text, opened = content or "", False
    if reasoning:
        is_open = finish_reason == "length" and not text
        text, opened = reasoning + ("" if is_open else CLOSING + text), True
    elif THINK_CLOSE in text:
        opened = not text.lstrip().startswith(THINK_OPEN)
    usage = response.get("usage") or {}
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    tokens = tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None
    return {"text": text, "thinking_opened": opened, "finish_reason": finish_reason, "tokens": tokens}
