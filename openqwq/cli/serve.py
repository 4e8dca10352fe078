"""Serve a model over HTTP: OpenAI's API, and a page to talk to it.

MODEL is a model folder, a hub name, or the folder of a run, which means its final model. With `--compare A B`, two
checkpoints of a run are served side by side (stages by name, or `final`), and the page puts the run's own held-out
problems to both; requests that name no model go to `final`, else to A. Keys come from `--api-key` (may be repeated),
`--api-key-file` (one a line) or the environment variable OPENQWQ_API_KEY. Without a key, only this machine is listened
to.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq.errors import UserError

from ._options import add_engine_argument, add_engine_arguments, engine_options

if TYPE_CHECKING:
    from openqwq.serve import Server, ServeSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "OPENQWQ_API_KEY"
MAX_NUM_SEQS = 64  # with fewer samples at once, each is quicker
# The engine's thread takes the interpreter's lock many times a token, and waits so long for one that computes.
SWITCH_S = 0.0005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, a GGUF file, a hub name, or a run's folder")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two checkpoints of a run, side by side")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--served-model-name", metavar="NAME", help="model name in the API (default: the folder's name)"
    )
    add_engine_argument(parser, "max_model_len", type=int, metavar="N")
    add_engine_argument(parser, "max_num_seqs", type=int, default=MAX_NUM_SEQS, metavar="N")
    add_engine_argument(parser, "seed", type=int, metavar="N")
    add_engine_arguments(parser)
    access = parser.add_argument_group("access and limits")
    access.add_argument("--api-key", action="append", default=[], metavar="KEY", help="accepted key; repeatable")
    access.add_argument("--api-key-file", type=Path, metavar="FILE", help="file of accepted keys, one per line")
    access.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of web pages that may read answers; repeatable",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="additional host name of this server; repeatable",
    )
    access.add_argument(
        "--max-samples", type=int, default=512, metavar="N", help="maximum samples running or queued (512)"
    )
    access.add_argument(
        "--max-body-mib", type=float, default=16, metavar="MIB", help="maximum request body in MiB (16)"
    )
    parser.add_argument(
        "--drain-timeout",
        type=float,
        default=120,
        metavar="SECONDS",
        help="time for running answers to finish on SIGTERM (120)",
    )


def run(args: argparse.Namespace) -> int:
    settings = _settings(args)  # mistakes are found before weights are loaded
    from openqwq.log import logger
    from openqwq.serve import create_app
    from openqwq.serve.listen import Listener, bind

    with bind(args.host, args.port) as sock:
        server = _load(args, settings)
        listener = Listener(
            create_app(server), server, host=args.host, port=args.port, drain_timeout_s=args.drain_timeout
        )
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # what was loaded stays, and need not be looked through while requests run
        host = f"[{args.host}]" if ":" in args.host else args.host
        names = ", ".join(f"{m.name} (context {m.max_model_len})" for m in server.models.values())
        logger.info("serving %s", names)
        logger.info("page and API: http://%s:%d  (OpenAI's base URL: .../v1)", host, sock.getsockname()[1])
        listener.run(sockets=[sock])
    return 0


def _settings(args: argparse.Namespace) -> ServeSettings:
    """What the options allow. Raises UserError for a server that everyone could use unasked."""
    if not args.compare and not args.model:
        raise UserError("no model is named")
    try:
        from openqwq.serve import ServeSettings
        from openqwq.serve.state import MIB
    except ImportError as error:
        raise UserError(
            f"serving needs a package that is not installed: {error.name}",
            hint="install it with the extra `serve`, as in `pip install -e '.[serve]'`",
        ) from error
    keys = _read_keys(args)
    local = args.host in LOOPBACK
    if not keys and not local:
        raise UserError(
            f"`--host {args.host}` lets other machines in, but no key is set",
            hint=f"set one with `--api-key`, `--api-key-file` or {KEY_VARIABLE}, or listen on 127.0.0.1",
        )
    return ServeSettings(
        api_keys=keys,
        allowed_hosts=(*LOOPBACK, "[::1]", *args.allow_host) if local else (),
        cors_origins=tuple(args.cors_origin),
        max_body_bytes=int(args.max_body_mib * MIB),
        max_samples=args.max_samples,
    )


def _read_keys(args: argparse.Namespace) -> tuple[str, ...]:
    keys = list(args.api_key) + os.environ.get(KEY_VARIABLE, "").split(",")
    if args.api_key_file:
        try:
            keys += args.api_key_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"cannot read the keys in {args.api_key_file}: {error.strerror}") from error
    return tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))


def _load(args: argparse.Namespace, settings: ServeSettings) -> Server:
    from openqwq.serve import Server
    from openqwq.serve.load import load_served_model

    from ._experiment import RunExperiment

    folder = Path(args.model)
    is_run = (folder / "recipe.json").is_file()
    if args.compare and not is_run:
        raise UserError(
            f"`--compare` needs a run folder, but {folder} is not one", hint="give a folder such as runs/tiny"
        )
    if args.compare:
        places = {name: _checkpoint(folder, name) for name in args.compare}
    else:
        place = _newest(folder) if is_run else args.model
        places = {args.served_model_name or folder.resolve().name or args.model: place}
    options = engine_options(args)
    models = {name: load_served_model(place, name, **options) for name, place in places.items()}
    experiment = RunExperiment(folder) if is_run else None
    return Server(models, settings, experiment=experiment, default="final" if "final" in models else "")


def _newest(run_folder: Path) -> Path:
    """The run's final model, or, while it is training, its newest checkpoint, which is said."""
    from openqwq.log import logger

    there = [path.parent for path in run_folder.glob("checkpoints/*/config.json")]
    if (run_folder / "final" / "config.json").is_file() or not there:
        return _checkpoint(run_folder, "final")
    newest = max(there, key=lambda path: path.stat().st_mtime)
    logger.info("%s has no final model yet: serving its checkpoint `%s`", run_folder, newest.name)
    return newest


def _checkpoint(run_folder: Path, name: str) -> Path:
    """The model folder of a stage, or the final one. Raises UserError naming those that are there."""
    place = run_folder / "final" if name == "final" else run_folder / "checkpoints" / name
    if not (place / "config.json").is_file():
        there = sorted(
            p.parent.name for p in [*run_folder.glob("checkpoints/*/config.json"), *run_folder.glob("final/*")]
        )
        known = ", ".join(dict.fromkeys(there)) or "none yet"
        raise UserError(f"{run_folder} has no checkpoint `{name}`", hint=f"there are: {known}")
    return place
