"""Let a model work on a task with tools: a model folder, or a server's URL with --model.

`openqwq agent MODEL "task" --workspace DIR` gives it files to read, change and run in the sandbox; changes are written
back at the end. --tools FILE.py adds the file's public functions. Calls that change or run something are asked for on
the terminal, or see --approve. Ctrl-C stops a running tool first, then the run. Exit code 0 where the model answered, 1
where the run ended otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.log import append_jsonl
from openqwq.types import Message, ToolCall

from ._options import add_json_argument, check_model, print_json
from ._sampling import add_sampling_arguments, parse_params

if TYPE_CHECKING:
    from openqwq.agents import Draw, Episode, Result, Tool, Turn
    from openqwq.agents.driver import AgentRun, Model
    from openqwq.inference import LLM
    from openqwq.types import Completion, SamplingParams

SHOWN = 400
SENT = ("temperature", "top_p", "max_tokens", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|URL", help="a model folder, hub name, or http://HOST:PORT")
    parser.add_argument("task", metavar="TASK", help="what to do")
    parser.add_argument("--model", dest="served", default="", metavar="NAME", help="the model's name at a URL")
    parser.add_argument("--key-env", default="", metavar="NAME", help="environment variable with the server's key")
    parser.add_argument("--tools", type=Path, action="append", default=[], metavar="FILE.py", help="functions as tools")
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="files to work on, with tools for them")
    parser.add_argument("--max-turns", type=int, default=20, metavar="N", help="turns of the model (20)")
    parser.add_argument("--history", choices=("keep", "strip"), default="keep", help="earlier thinking (keep)")
    parser.add_argument("--approve", choices=("ask", "all", "none"), default="ask", help="calls that change or run")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="append a JSON line for each turn and result")
    add_json_argument(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from openqwq.agents import Context, Toolbox
    from openqwq.agents.tool_process import ToolProcess
    from openqwq.agents.workspace import load_files, save_files, workspace_tools
    from openqwq.sandbox import Sandbox

    parse_params(args.overrides)
    if args.max_turns < 1:
        raise UserError(f"--max-turns is {args.max_turns}, but must be at least 1")
    with contextlib.ExitStack() as stack:
        tools: list[Tool] = []
        before: dict[str, bytes] = {}
        if args.workspace:
            before = load_files(args.workspace)
            sandbox = stack.enter_context(Sandbox(workers=1))
            tools += workspace_tools(lambda: sandbox)
        for file in args.tools:
            process = ToolProcess(file)
            stack.callback(process.close)
            tools += process.tools
        if args.approve == "ask" and any(tool.asks for tool in tools) and not sys.stdin.isatty():
            raise UserError("there is no terminal to ask on", hint="give --approve all, or --approve none")
        context = Context(dict(before))
        model, episode = _begin(args, Toolbox(tools))
        stop = asyncio.run(_play(args, episode, model, context))
        lines = save_files(args.workspace, before, context.files) if args.workspace and stop != "cancelled" else []
    _tell(args, episode, lines)
    if stop == "cancelled":
        raise KeyboardInterrupt(*(["the workspace is left as it was"] if args.workspace else []))
    return 0 if stop == "answered" else 1


def _begin(args: argparse.Namespace, toolbox: Any) -> tuple[Model, Episode]:
    from openqwq.agents import Episode, Limits

    messages = [Message("user", args.task)]
    if "://" in args.model:
        from openqwq.agents.driver import ServerModel

        if not args.served:
            raise UserError("a URL needs the model's name", hint="give --model NAME")
        names = {override.partition("=")[0] for override in args.overrides}
        if others := sorted(names - set(SENT)):
            raise UserError(f"`{others[0]}` cannot be set at a URL", hint=f"allowed: {', '.join(SENT)}")
        params = parse_params(args.overrides)
        sampling = {name: getattr(params, name) for name in SENT if name in names}
        server = ServerModel(args.model, args.served, toolbox.schemas, sampling, args.key_env)
        return server, Episode.begin(messages, toolbox, Limits(max_turns=args.max_turns))
    check_model(args.model)
    from openqwq.inference import LLM
    from openqwq.inference.params import check_params

    llm = LLM(args.model, max_num_seqs=1)
    params = parse_params(args.overrides, llm.default_sampling_params)
    check_params(params)
    limits = Limits(max_turns=args.max_turns, max_context=llm.engine.max_model_len)
    return EngineModel(llm, params), Episode.begin(messages, toolbox, limits, llm.require_tokenizer(), args.history)


class EngineModel:
    """A model in this process."""

    def __init__(self, llm: LLM, params: SamplingParams):
        self.engine, self.params, self._stopped = llm.engine, params.replace(n=1), False

    async def draw(self, draw: Draw) -> Completion:
        from openqwq.agents.driver import in_thread

        return await in_thread(self._sample, draw)

    def stop(self) -> None:
        self._stopped = True

    def _sample(self, draw: Draw) -> Completion:
        assert draw.prompt is not None
        params = self.params.replace(max_tokens=min(self.params.max_tokens, draw.max_tokens))
        request_id = self.engine.add_request(list(draw.prompt.token_ids), params)
        outputs: list[Any] = []
        while not outputs:
            outputs = [self.engine.abort(request_id)] if self._stopped else self.engine.step()
        return outputs[0].outputs[0]


async def _play(args: argparse.Namespace, episode: Episode, model: Model, context: Any) -> str:
    from openqwq.agents.driver import AgentRun, in_thread

    async def approve(call: ToolCall) -> bool:
        if args.approve != "ask":
            return args.approve == "all"
        print(f"{_call_text(call)}\nrun it? [y/N] ", end="", file=sys.stderr, flush=True)
        return (await in_thread(sys.stdin.readline)).strip().lower() in ("y", "yes")

    def observe(call: ToolCall | None, event: Turn | Result) -> None:
        _show(call, event)
        if args.trace:
            row = {"type": "result" if call else "turn", **({"call": asdict(call)} if call else {}), **asdict(event)}
            append_jsonl(args.trace, row)

    agent: AgentRun = AgentRun(episode, model, context, approve, observe)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, agent.stop)
    return await agent.run()


def _show(call: ToolCall | None, event: Any) -> None:
    """What happens, for people: on stderr."""
    if call is not None:
        text = event.text if len(event.text) <= SHOWN else f"{event.text[:SHOWN]}..."
        print(f"> {_call_text(call)}\n{event.status} ({event.seconds:.1f} s): {text}", file=sys.stderr)
        return
    if event.thinking:
        print(f"[thought {len(event.thinking)} characters, turn of {event.num_tokens} tokens]", file=sys.stderr)
    if event.calls and event.answer.strip():
        print(event.answer.strip(), file=sys.stderr)
    if event.error:
        print(event.error, file=sys.stderr)


def _call_text(call: ToolCall) -> str:
    text = json.dumps(call.arguments, ensure_ascii=False)
    return f"{call.name} {text if len(text) <= SHOWN else f'{text[:SHOWN]}...'}"


def _tell(args: argparse.Namespace, episode: Episode, lines: list[str]) -> None:
    if args.json:
        turns = [{**asdict(p.turn), "results": [asdict(r) for r in p.results]} for p in episode.turns]
        print_json({"stop": episode.stop, "answer": episode.answer, "files": lines, "turns": turns})
        return
    for line in lines:
        print(line, file=sys.stderr)
    if episode.stop == "answered":
        print(episode.answer)
    else:
        print(f"ended without an answer: {episode.stop}", file=sys.stderr)
