"""Check that this machine can run openqwq, or that a model's folder is free of the known traps.

Without MODEL: versions, extras, compiled kernels, threads, memory, the jail for untrusted code. With it: missing or
cut-off weights, their type, the YaRN block, pad and end tokens, a chat template that lost its thinking, recommended
sampling. `--fix` writes the fixed files into MODEL-fixed, next to the given path, or into `--out`, and links all others
there. Exit code 1 if something that is needed is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openqwq import SPIN_COUNT, SPIN_COUNT_COMES_LATE
from openqwq.checkpoint.doctor import Finding, examine_model, write_fixed
from openqwq.errors import UserError

from ._options import add_json_argument, print_json

# The tiny recipe's peak is far below; less than this and torch itself hardly starts.
LEAST_MEMORY_GIB = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        type=Path,
        help="model folder or GGUF file to check (default: this machine)",
    )
    parser.add_argument("--fix", action="store_true", help="write fixed files into MODEL-fixed")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder for `--fix` instead")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    findings = _examine(args) if args.model else [check() for check in CHECKS]
    passed = all(finding.status != "fail" for finding in findings)
    if args.fix and not args.model:
        raise UserError("`--fix` needs a MODEL")
    if args.json:
        print_json({"ok": passed, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{finding.status:<4}  {finding.name:<10}  {finding.text}")
    return 0 if passed else 1


def _examine(args: argparse.Namespace) -> list[Finding]:
    from openqwq.formats.gguf.container import is_gguf

    if is_gguf(args.model):
        from openqwq.model import resolve_folder

        if args.fix:
            raise UserError(
                f"`--fix` writes model folders, and {args.model} is a GGUF file",
                hint=f"`openqwq convert {args.model} FOLDER`, then `openqwq doctor FOLDER --fix`",
            )
        return examine_model(resolve_folder(args.model)).findings
    examined = examine_model(args.model)
    if args.fix and examined.fixes:
        target = write_fixed(examined, args.out)
        examined.note("fixed", "ok", f"{', '.join(sorted(examined.fixes))} in {target}")
    elif examined.fixes:
        examined.note("hint", "warn", f"`openqwq doctor {args.model} --fix` writes {', '.join(sorted(examined.fixes))}")
    return examined.findings


def check_python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("python", "ok" if fits else "fail", f"{platform.python_version()} (needs 3.11 to 3.13)")


def check_packages() -> Finding:
    """Every package that openqwq itself requires, at a version that it allows."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("openqwq") or ()]
    wrong = []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need} is wanted, {version} is there")
    return Finding("packages", "fail" if wrong else "ok", "; ".join(wrong) or "all there")


def check_extras() -> Finding:
    """Which optional parts can be used; the rest is named with the command that adds it."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("openqwq") or ()]
    there, missing = [], []
    for extra in importlib.metadata.metadata("openqwq").get_all("Provides-Extra") or ():
        own = [need for need in wanted if need.marker and need.marker.evaluate({"extra": extra})]
        if extra != "dev" and all(map(_is_installed, own)):
            there.append(extra)
        elif extra != "dev":
            missing.append(extra)
    for name in ("tensorboard", "wandb"):  # trackers of training, which no extra brings
        (there if importlib.util.find_spec(name) else missing).append(name)
    command = "`pip install 'openqwq[NAME]'`, of trackers `pip install NAME`"
    text = ", ".join(there) or "none"
    return Finding("extras", "ok", f"{text}; not there: {', '.join(missing)} ({command})" if missing else text)


def _is_installed(need: Any) -> bool:
    try:
        return need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def check_kernels() -> Finding:
    """Compiles and loads the C kernels, on which the speed of a CPU depends."""
    from openqwq.kernels.cpu.library import describe_library, missing_reason

    found = describe_library()
    text = found or f"{missing_reason()}: PyTorch's operators run instead, several times slower on a CPU"
    return Finding("kernels", "ok" if found else "warn", text)


def check_torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "fail", f"cannot be imported: {error}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Finding("torch", "ok", f"{torch.__version__} on {device}, {torch.get_num_threads()} threads")


def check_tokenizers() -> Finding:
    """Learns a tokenizer from one line and reads the line back."""
    from openqwq.tokenizer import train_tokenizer

    line = "12 + 30 = 42, naïve"
    tokenizer = train_tokenizer([line], 282)
    works = tokenizer.decode(tokenizer.encode(line)) == line
    version = importlib.metadata.version("tokenizers")
    return Finding("tokenizers", "ok" if works else "fail", f"{version}, {'works' if works else 'garbles text'}")


def check_threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    text = f"{usable} usable cores" + (f", OMP_NUM_THREADS={limit}" if limit else "")
    crowded = limit.isdecimal() and int(limit) > usable
    if SPIN_COUNT_COMES_LATE:
        text += "; torch was imported before openqwq, so waiting threads spin and slow down on a busy machine: "
        text += f"import openqwq first, or set GOMP_SPINCOUNT={SPIN_COUNT}"
    return Finding("threads", "warn" if crowded or SPIN_COUNT_COMES_LATE else "ok", text)


def check_memory() -> Finding:
    free = available_memory_gib()
    if free is None:
        return Finding("memory", "warn", "this system does not say how much is free")
    text = f"{free:.1f} GiB free"
    return Finding("memory", "ok" if free >= LEAST_MEMORY_GIB else "warn", text)


def available_memory_gib(root: str = "/") -> float | None:
    """Memory that can still be taken: the machine's or the control group's, whichever is less; None if unknown."""
    free = []
    try:
        with open(os.path.join(root, "proc/meminfo"), encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        free.append(int(rows["MemAvailable"].split()[0]) * 1024)
        group = os.path.join(root, "sys/fs/cgroup/memory.")
        with open(group + "max", encoding="ascii") as limit, open(group + "current", encoding="ascii") as used:
            free.append(int(limit.read()) - int(used.read()))
    except (OSError, KeyError, ValueError):
        pass  # not Linux, or no limit is set ("max"): what was read so far counts
    return min(free) / 2**30 if free else None


def check_jail() -> Finding:
    """Runs a program in the jail that code verifiers use."""
    from openqwq.sandbox.jail.probe import find_options

    try:
        options = find_options()
    except UserError as error:
        return Finding("jail", "fail", f"{error.message} ({error.hint})")
    if not options.nested:
        text = "bubblewrap works, without namespaces inside: a fifth of the speed"
        return Finding("jail", "warn", f"{text}; {_describe_gvisor()}")
    text = "bubblewrap works" + ("" if options.cgroup else ", memory bounded by rlimits")
    text += "" if options.filtered else ", system calls are not filtered"
    return Finding("jail", "ok", f"{text}; {_describe_gvisor()}")


def _describe_gvisor() -> str:
    """Whether the other jail is available; nothing needs it."""
    from openqwq.sandbox.jail.gvisor import find_gvisor
    from openqwq.sandbox.jail.probe import find_options

    try:
        find_gvisor()
    except UserError:
        return "no gVisor (`runsc`)"
    try:
        find_options("gvisor")
    except UserError as error:
        return error.message
    return "gVisor works (`--jail gvisor`)"


def check_verifier_workers() -> Finding:
    """Whether the processes that judge answers can be kept from writing files and from the network."""
    code = "from openqwq.sandbox import confine_reader; print(confine_reader())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0 and not done.stdout.strip():
        return Finding("verifiers", "ok", "workers write no files, start no programs and reach no network")
    why = done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]
    return Finding("verifiers", "warn", f"workers can write files and reach the network: {why}")


def check_languages() -> Finding:
    """Which languages the jail runs programs in; Python needs no toolchain, so none of them is missed."""
    from openqwq.sandbox.languages import describe_languages

    lines = describe_languages().items()
    return Finding("languages", "ok", "; ".join(f"{language}: {text}" for language, text in lines))


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_packages,
    check_extras,
    check_torch,
    check_kernels,
    check_tokenizers,
    check_threads,
    check_memory,
    check_jail,
    check_verifier_workers,
    check_languages,
)
