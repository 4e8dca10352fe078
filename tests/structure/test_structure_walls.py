"""The walls between the rooms: which part of the package may import which, and where torch may not be loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "openqwq"

NEVER = {
    "train": {"eval", "serve", "pipeline", "cli", "cluster"},
    "serve": {"train", "rollout", "verifiers"},
    "inference": {"train", "rollout", "verifiers", "data"},
    "eval": {"train", "inference"},
    "checkpoint": {"train"},
    "rollout": {"verifiers", "inference"},
    "verifiers": {"rollout", "train", "inference"},
    "data": {"model"},
    "agents": {"verifiers", "train", "inference", "model", "rollout", "environments"},
    "environments": {"train", "inference", "model", "rollout"},
    "planner": {"train", "rollout", "verifiers", "data", "eval", "serve", "pipeline", "cli"},
}
"""Rooms that a room reaches neither directly nor through others."""

ONLY = {
    "kernels": {"errors", "log"},
    "formats": {"kernels", "errors", "log"},
    "model": {"kernels", "formats", "errors", "log"},
    "sandbox": {"key_hosts", "types", "errors"},
    "config": {"types", "errors", "log"},
    "tokenizer": {"types", "errors", "log"},
    "types": set(),
    "errors": set(),
    "log": {"errors"},
    "json_client": {"key_hosts", "errors", "log"},
    "key_hosts": {"errors"},
    "planner": {"inference", "model", "kernels", "formats", "errors", "log"},
}
"""Rooms that import nothing of ours but these."""

INNER = {
    "sandbox.inside": {"sandbox.inside"},
    "train.algorithm": {"train.algorithm", "train.packing", "train.stage", "config", "types", "errors"},
    "inference.cache": {"inference.cache", "errors"},
    "data.sources": {"data.sources", "data.keys", "verifiers", "config", "rows", "types", "errors", "log"},
    "verifiers.workers": {"verifiers.workers", "verifiers.base", "sandbox", "types", "errors", "log"},
}
"""Folders within rooms, and all that they import of the package."""

SIBLINGS = [
    name
    for name in ("code", "environment", "instructions", "math", "proof", "reasoning_gym", "tool_call")
    if (PACKAGE / "verifiers" / name).is_dir()
]
"""Verifiers that are folders: none imports another."""

TORCH_FREE = (
    *("config", "tokenizer", "sandbox", "verifiers", "rollout", "data", "agents", "environments"),
    *("types", "errors", "log", "json_client"),
)
CHILD_SIDE = {"openqwq.verifiers.workers.child"}
"""Modules that only run as a process of their own."""


def name_of(file: Path) -> str:
    """The dotted name of a module of the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> Iterator[str]:
    """What a module imports, absolute, wherever in its text; type-checking blocks included."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """ "openqwq.train.rl" is in the room "train"; the package's own __init__ in ""."""
    return ([*module.split("."), ""])[1]


def room_imports() -> dict[str, set[str]]:
    """The rooms that each room imports directly."""
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        mine = room_of(name)
        found = {room_of(m) for m in imports_of(name) if m.split(".")[0] == "openqwq" and room_of(m) in ROOMS}
        graph.setdefault(mine, set()).update(found - {mine})
    return graph


ROOMS = {room_of(name) for name in MODULES} - {""}
GRAPH = room_imports()


def reached(room: str) -> set[str]:
    """Every room that this one imports, directly or through others."""
    seen: set[str] = set()
    waiting = [room]
    while waiting:
        for other in GRAPH.get(waiting.pop(), ()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


@pytest.mark.parametrize("room", [room for room in NEVER if room in ROOMS])
def test_room_never_reaches_forbidden_rooms(room):
    assert not reached(room) & NEVER[room]


@pytest.mark.parametrize("room", list(ONLY))
def test_closed_room_imports_only_what_it_may(room):
    assert GRAPH.get(room, set()) <= ONLY[room]


def test_rooms_import_each_other_without_circles():
    circular = {room for room in ROOMS if room in reached(room)}
    assert not circular


@pytest.mark.parametrize("room", TORCH_FREE)
def test_light_room_does_not_name_torch(room):
    heavy = {
        name: module
        for name in MODULES
        if room_of(name) == room
        for module in imports_of(name)
        if module.split(".")[0] in ("torch", "safetensors", "transformers")
    }
    assert not heavy


def test_light_rooms_leave_torch_unloaded():
    light = [name for name in MODULES if room_of(name) in TORCH_FREE and name not in CHILD_SIDE]
    assert len(light) > len(TORCH_FREE)
    light = [name for name in light if name not in inside_the_jail()]
    code = f"import importlib, sys\nfor name in {light!r}:\n    importlib.import_module(name)\n"
    code += "sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def inside_the_jail() -> set[str]:
    """The sandbox's files that are copied into the jail and are no modules of ours there."""
    return {name for name in MODULES if name.startswith("openqwq.sandbox.inside.")}


def module_of(imported: str) -> str:
    """The module that an imported dotted name is in, or is; "" outside the package."""
    while imported and imported not in MODULES:
        imported = imported.rpartition(".")[0]
    return imported


def within(module: str, place: str) -> bool:
    return f"{module}.".startswith(f"openqwq.{place}.")


@pytest.mark.parametrize("place", list(INNER))
def test_inner_folder_imports_only_what_it_may(place):
    found = {
        (name, module_of(imported))
        for name in MODULES
        if within(name, place)
        for imported in imports_of(name)
        if module_of(imported) not in ("", "openqwq")
    }
    assert not {pair for pair in found if not any(within(pair[1], allowed) for allowed in INNER[place])}


@pytest.mark.parametrize("verifier", SIBLINGS)
def test_verifiers_never_import_each_other(verifier):
    others = [f"verifiers.{name}" for name in SIBLINGS if name != verifier]
    mine = [name for name in MODULES if within(name, f"verifiers.{verifier}")]
    assert not [(n, i) for n in mine for i in imports_of(n) if any(within(i, other) for other in others)]


def test_files_import_each_other_without_circles():
    """Deferred and type-only imports counted; a package's face counts as a file only where it is imported as such."""
    graph = {name: set() for name in MODULES}
    for name in MODULES:
        for imported in imports_of(name):
            module = module_of(imported)
            if module not in ("", "openqwq", name) and MODULES[module].name != "__init__.py":
                graph[name].add(module)
    found = set()
    for name in graph:
        seen, waiting = set(), list(graph[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += graph[other]
        found |= {frozenset({name, other}) for other in seen if name in graph[other] and other in graph[name]}
        if name in seen and not any(name in pair for pair in found):
            found.add(frozenset({name}))
    assert not found


def test_no_module_is_named_utils_common_or_misc():
    nameless = {"utils", "util", "common", "misc", "helpers", "legacy", "experimental"}
    assert not [name for name in MODULES if nameless & set(name.split("."))]
