"""The verifiers of an evaluation, made when they are first needed: a strict one and its format-free sibling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from openqwq.config import is_own
from openqwq.verifiers import Verifier, get_verifier, verifier_names


class VerifierPool(Mapping[str, Verifier]):
    """Every known verifier by name, and those in files, each made on first use and kept.

    options:     verifier name -> its options.
    format_free: hand out the lenient siblings.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None, *, format_free: bool = False):
        self._options = dict(options or {})
        self._format_free = format_free
        self._names = verifier_names()
        self._made: dict[str, Verifier] = {}

    def __getitem__(self, name: str) -> Verifier:
        if name not in self:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = get_verifier(name, **{**self._options.get(name, {}), "format_free": self._format_free})
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names or (isinstance(name, str) and is_own(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Judge:
    """Both pools of an evaluation."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None):
        self.strict = VerifierPool(options)
        self.format_free = VerifierPool(options, format_free=True)
