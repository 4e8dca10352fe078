"""JSON schemas that nothing finite satisfies: definitions that are themselves, objects that must hold themselves.

A grammar from such a schema would accept prefixes for ever, or nothing. What is looked at: `false`, empty `enum` and
`anyOf`, local `$ref`, `allOf`, `anyOf`, `oneOf`, required properties and least numbers of items. All else is taken to
be satisfiable here, so that nothing that has an instance is refused.

The schema becomes a graph of nodes that need all or any of others (Horn clauses: Dowling and Gallier, 1984), solved
from the leaves in linear time; what is never reached has no finite instance.

Public: find_unsatisfiable.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Pointer = tuple[str, ...]


def find_unsatisfiable(schema: Any) -> str | None:
    """The JSON pointer of a part that nothing finite satisfies, where the whole needs it; None: something may.

    As in `#/$defs/node`, the part at which a definition comes back to itself.
    """
    graph = _Graph()
    root = ("schema", ())
    _read(schema, graph)
    graph.solve()
    return None if graph.nodes[root].solved else _write(graph.blame(root))


@dataclass(slots=True)
class _Node:
    """Solved once all of its needs are, or one of them."""

    needs: list[Hashable]
    any_does: bool
    open_needs: int
    solved: bool = False
    parents: list[Hashable] = field(default_factory=list)


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[Hashable, _Node] = {}

    def add(self, key: Hashable, needs: Sequence[Hashable], any_does: bool = False) -> Hashable:
        distinct = list(dict.fromkeys(needs))
        self.nodes[key] = _Node(distinct, any_does, len(distinct))
        return key

    def solve(self) -> None:
        for key, node in self.nodes.items():
            for need in node.needs:
                self.nodes[need].parents.append(key)
        ready = [key for key, node in self.nodes.items() if not node.needs and not node.any_does]
        while ready:
            node = self.nodes[ready.pop()]
            if node.solved:
                continue
            node.solved = True
            for key in node.parents:
                parent = self.nodes[key]
                parent.open_needs -= 1
                if parent.any_does or not parent.open_needs:
                    ready.append(key)

    def blame(self, root: Hashable) -> Pointer:
        """The part of the schema at which unsolved needs end or come back to themselves."""
        seen: set[Hashable] = set()
        key, place = root, ()
        while key not in seen:
            seen.add(key)
            place = key[1] if key[0] == "schema" else place  # type: ignore[index]
            key = next((need for need in self.nodes[key].needs if not self.nodes[need].solved), key)
        return key[1] if key[0] == "schema" else place  # type: ignore[index]


def _read(schema: Any, graph: _Graph) -> None:
    """Add a node for every part of the schema that matters, under ("schema", its pointer)."""
    waiting: list[tuple[Pointer, Any]] = [((), schema)]
    while waiting:
        place, part = waiting.pop()
        if ("schema", place) in graph.nodes:
            continue
        parts: dict[Pointer, Any] = {}
        if part is False:
            graph.add(("schema", place), (), any_does=True)
        elif isinstance(part, Mapping):
            graph.add(("schema", place), _needs(schema, place, part, parts, graph))
        else:
            graph.add(("schema", place), ())
        waiting += parts.items()


def _needs(
    root: Any, place: Pointer, part: Mapping[str, Any], parts: dict[Pointer, Any], graph: _Graph
) -> list[Hashable]:
    """What a schema object needs all of; the parts that it refers to are noted in `parts`."""

    def schema_at(where: Pointer, value: Any) -> Hashable:
        parts[where] = value
        return ("schema", where)

    def any_of(word: str, needs: Sequence[Hashable]) -> Hashable:
        return graph.add((word, place), needs, any_does=True)

    needs: list[Hashable] = []
    reference = part.get("$ref")
    if isinstance(reference, str) and (found := _resolve(root, reference)) is not None:
        needs.append(schema_at(*found))
    for word in ("allOf", "anyOf", "oneOf"):
        choices = part.get(word)
        if isinstance(choices, list):
            each = [schema_at((*place, word, str(i)), choice) for i, choice in enumerate(choices)]
            needs += each if word == "allOf" else [any_of(word, each)]
    if part.get("enum") == []:
        needs.append(any_of("enum", ()))
    kinds = part.get("type")
    if isinstance(kinds, str):
        needs += _kind_needs(kinds, place, part, schema_at, any_of)
    elif isinstance(kinds, list) and set(map(str, kinds)) == {"array", "object"}:
        each = [graph.add((kind, place), _kind_needs(kind, place, part, schema_at, any_of)) for kind in kinds]
        needs.append(any_of("type", each))
    return needs


def _kind_needs(kind: str, place: Pointer, part: Mapping[str, Any], schema_at: Any, any_of: Any) -> list[Hashable]:
    """What the values of one type need; only objects and arrays need anything."""
    needs: list[Hashable] = []
    if kind == "object":
        properties = part.get("properties")
        required = part.get("required")
        for name in required if isinstance(required, list) else ():
            if isinstance(properties, Mapping) and isinstance(name, str) and name in properties:
                needs.append(schema_at((*place, "properties", name), properties[name]))
            elif "additionalProperties" in part:
                needs.append(_unnamed_property(place, part, schema_at, any_of))
    if kind == "array":
        least = part.get("minItems")
        least = least if isinstance(least, int) else 0
        first = part.get("prefixItems")
        first = first if isinstance(first, list) else []
        needs += [schema_at((*place, "prefixItems", str(i)), item) for i, item in enumerate(first[: max(least, 0)])]
        if least > len(first) and "items" in part:
            needs.append(schema_at((*place, "items"), part["items"]))
    return needs


def _unnamed_property(place: Pointer, part: Mapping[str, Any], schema_at: Any, any_of: Any) -> Hashable:
    """What a property needs that `properties` does not name; which pattern it matches is not looked at."""
    patterns = part.get("patternProperties")
    patterns = patterns if isinstance(patterns, Mapping) else {}
    choices = [schema_at((*place, "patternProperties", str(one)), schema) for one, schema in patterns.items()]
    choices.append(schema_at((*place, "additionalProperties"), part["additionalProperties"]))
    return any_of("unnamed", choices)


def _resolve(root: Any, reference: str) -> tuple[Pointer, Any] | None:
    """Where a local reference points to, and what is there; None for others, which the grammar library refuses."""
    if not reference.startswith("#"):
        return None
    steps = [unquote(step).replace("~1", "/").replace("~0", "~") for step in reference[1:].split("/")]
    if steps.pop(0):
        return None
    value = root
    for step in steps:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return tuple(steps), value


def _write(place: Pointer) -> str:
    return "#" + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in place)
