"""The folder of a benchmark run: append-only, and enough to continue after a kill at any byte.

    plan.json       what is run: a folder continues only the same plan, with as many samples or more
    samples.jsonl   one line a finished sample, by (key, sample); of two the first counts
    verdicts.jsonl  one line a judgement, with the digest of the text that it is about; the first that judged counts
    errors.jsonl    failed requests; none of them is a sample
    results.json, report.md   made of the others, again after each run

Public: `BenchmarkFolder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import append_jsonl, read_json, read_jsonl, torn_file, write_text_atomic

Key = tuple[str, int]
GROWS = ("samples", "problems", "protocol", "data", "server")
"""Keys of the plan that may change: counts may grow, the protocol's name follows the samples, data is known by
its hash, a server may move."""


def text_digest(text: str) -> str:
    """Names a sample's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class BenchmarkFolder:
    """A run's plan, samples and verdicts, in memory and on disk."""

    def __init__(self, path: Path, plan: Mapping[str, Any]):
        """Begin the folder or continue it. Raises UserError where it holds another plan."""
        self.path, self.plan = path, dict(plan)
        path.mkdir(parents=True, exist_ok=True)
        saved = path / "plan.json"
        if saved.exists():
            self._check(read_json(saved))
        elif any(path.iterdir()):
            raise UserError(f"{path} is not empty and holds no plan of a benchmark", hint="choose another `--out`")
        write_text_atomic(saved, json.dumps(self.plan, indent=2, ensure_ascii=False) + "\n")
        self.samples: dict[Key, dict[str, Any]] = {}
        for row in self._read("samples.jsonl"):
            self.samples.setdefault(self._key(row, "samples.jsonl"), row)
        self.verdicts: dict[Key, dict[str, Any]] = {}
        for row in self._read("verdicts.jsonl"):
            self._keep(self._key(row, "verdicts.jsonl"), row)
        self._read("errors.jsonl")

    def add_sample(self, row: dict[str, Any]) -> None:
        """Keep a finished sample; it is on disk when this returns."""
        append_jsonl(self.path / "samples.jsonl", row)
        self.samples.setdefault((row["key"], row["sample"]), row)

    def add_verdict(self, key: Key, verdict: Mapping[str, Any]) -> None:
        """Keep the judgement of a sample that is there."""
        row = {"key": key[0], "sample": key[1], "of": text_digest(self.samples[key]["text"]), **verdict}
        append_jsonl(self.path / "verdicts.jsonl", row)
        self._keep(key, row)

    def add_error(self, row: dict[str, Any]) -> None:
        """Keep why a request failed."""
        append_jsonl(self.path / "errors.jsonl", row)

    def write(self, name: str, text: str) -> None:
        """Write one of the files that are made of the others."""
        write_text_atomic(self.path / name, text)

    def _keep(self, key: Key, row: dict[str, Any]) -> None:
        if key not in self.samples or row.get("of") != text_digest(self.samples[key]["text"]):
            return  # about a sample that was lost with a torn file
        if self.verdicts.get(key, {}).get("outcome", "unjudged") == "unjudged":
            self.verdicts[key] = row

    def _check(self, saved: Mapping[str, Any]) -> None:
        names = [name for name in {**saved, **self.plan} if name not in GROWS]
        if found := [name for name in names if saved.get(name) != self.plan.get(name)]:
            name = found[0]
            raise UserError(
                f"{self.path} holds a run with another {', '.join(f'`{n}`' for n in found)} "
                f"(`{name}` was {_short(saved.get(name))}, now {_short(self.plan.get(name))})",
                hint="continue it with the same options, or choose another `--out`",
            )
        for name in ("samples", "problems"):
            if self.plan[name] < saved.get(name, 0):
                raise UserError(
                    f"{self.path} holds a run with {saved[name]} {name}, more than the {self.plan[name]} asked for",
                    hint="the number may only grow; choose another `--out` for a smaller one",
                )

    def _read(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file; what a killed writer left of a last line is cut off the file."""
        path = self.path / name
        if not path.exists():
            return []
        with open(path, "rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
        return read_jsonl(path)

    def _key(self, row: Mapping[str, Any], name: str) -> Key:
        try:
            return str(row["key"]), int(row["sample"])
        except (KeyError, TypeError, ValueError):
            raise torn_file(self.path / name, "a line has no `key` and `sample`") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
