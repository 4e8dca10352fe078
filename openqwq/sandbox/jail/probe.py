"""What this machine can do for a jail, found by trying: the strongest way of working that really works."""

from __future__ import annotations

import itertools
import logging
import os

from openqwq.errors import UserError

from ..spec import Limits
from .bubblewrap import find_bubblewrap, find_interpreter
from .cgroup import ControlGroup, remove_stale_groups
from .gvisor import find_gvisor, remove_stale_bundles
from .jail import Jail, JailError, Job
from .options import JAILS, JailKind, JailOptions

logger = logging.getLogger("openqwq.sandbox")

PROBE_JOB = Job(payload={"kind": "run", "code": "print('up')", "stdin": ""})


def find_options(jail: JailKind = "bubblewrap", *, no_jail: bool = False) -> JailOptions:
    """The first way of making this kind of jail that runs a program here.

    Order: namespaces for every job before one jail a job, an unprivileged bubblewrap before root's.
    no_jail: run programs WITHOUT ANY ISOLATION, as this user; logged as a warning each time.
    Raises UserError where none works.
    """
    if jail not in JAILS:
        raise UserError(f"there is no jail {jail!r}", hint=f"there are {', '.join(JAILS)}")
    cgroup = _has_cgroup()
    interpreter = find_interpreter()
    if no_jail:
        logger.warning("the sandbox is OFF: programs run unprotected, as this user, with this machine's files")
        return JailOptions(interpreter, "none", nested=False, cgroup=cgroup)
    if jail == "gvisor":
        return _find_gvisor(JailOptions(interpreter, "gvisor", nested=False, cgroup=cgroup))
    find_bubblewrap()
    errors = []
    for nested, as_nobody in itertools.product((True, False), (True, False) if os.getuid() == 0 else (False,)):
        options = JailOptions(interpreter, nested=nested, as_nobody=as_nobody, cgroup=cgroup)
        try:
            _try(options)
        except JailError as error:
            errors.append(str(error))
            continue
        if not nested:
            logger.warning(
                "no namespaces inside the jail: every program gets a jail of its own, at a fifth of the speed"
            )
        return options
    raise UserError(
        f"no jail works here: {errors[-1]}",
        hint="allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`), "
        "or start the container with `--security-opt seccomp=unconfined`",
    )


def _find_gvisor(options: JailOptions) -> JailOptions:
    find_gvisor()
    remove_stale_bundles()
    try:
        _try(options)
    except JailError as error:
        raise UserError(f"gVisor does not work here: {error}", hint="take the jail `bubblewrap`") from None
    return options


def _has_cgroup() -> bool:
    remove_stale_groups()
    try:
        ControlGroup().close()
    except OSError as error:
        logger.info("no control groups (%s): rlimits alone bound memory, process by process", error)
        return False
    return True


def _try(options: JailOptions) -> None:
    jail = Jail(options, tmp_mib=Limits().tmp_mib)
    try:
        outcome = jail.execute(PROBE_JOB, Limits())
        if outcome.out != b"up\n":
            raise JailError(
                f"a first program did not run: {outcome.err.decode(errors='replace').strip() or outcome.end}"
            )
    finally:
        jail.kill()
