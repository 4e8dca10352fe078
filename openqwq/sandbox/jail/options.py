"""How jails are made on one machine: what `probe.find_options` finds, and `Jail` is given.

Public: JailKind, JAILS, JailOptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .bubblewrap import Interpreter
from .seccomp import build_filter

JailKind = Literal["bubblewrap", "gvisor", "none"]
JAILS: tuple[JailKind, ...] = ("bubblewrap", "gvisor")
"""What may be asked for by name; "none" has a switch of its own."""


@dataclass(frozen=True, slots=True)
class JailOptions:
    """How jails are made.

    jail:      "none" runs programs unprotected, for those who ask for it by name.
    nested:    jobs get namespaces of their own, so that a jail can be used again.
    as_nobody: bubblewrap itself runs as user 65534 (when we are root).
    """

    interpreter: Interpreter
    jail: JailKind = "bubblewrap"
    nested: bool = True
    as_nobody: bool = False
    cgroup: bool = True

    @property
    def isolated(self) -> bool:
        return self.jail != "none"

    @property
    def filtered(self) -> bool:
        """Whether system calls are filtered: in every jail, on the architectures that the filter knows."""
        return self.isolated and build_filter(inner=True) is not None
