"""Schemas that nothing finite satisfies are found, with the part at fault; those with an instance are let through."""

from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.inference.constraints.satisfiable import find_unsatisfiable
from openqwq.inference.constraints.structured_outputs import GrammarMaker
from openqwq.tokenizer import Tokenizer
from openqwq.types import StructuredOutputs

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
SELF = {"$ref": "#"}
INTEGER = {"type": "integer"}


def node(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def defined(use, **definitions):
    return {"$defs": definitions, **use}


def ref(name):
    return {"$ref": f"#/$defs/{name}"}


# An object that holds itself, or a list of one or more of itself.
NESTED = node(a=ref("n")) | {"type": ["object", "array"], "minItems": 1, "items": ref("n")}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (False, "#"),
        (SELF, "#"),
        ({"allOf": [INTEGER, SELF]}, "#"),
        ({"anyOf": [SELF, False]}, "#"),
        ({"enum": []}, "#"),
        (node(a=SELF), "#"),
        (node(a=INTEGER, b=False), "#/properties/b"),
        ({"type": "array", "minItems": 1, "items": SELF}, "#"),
        ({"type": "array", "minItems": 2, "prefixItems": [INTEGER, False]}, "#/prefixItems/1"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "#/additionalProperties"),
        (node(a=INTEGER) | {"required": ["b"], "patternProperties": {"^b": SELF}}, "#"),
        (defined(ref("a"), a=ref("b"), b=ref("c"), c=ref("a")), "#/$defs/a"),
        (defined(node(x=ref("n")), n=node(next=ref("n"))), "#/$defs/n"),
        (defined(ref("n"), n={"oneOf": [ref("n")]}), "#/$defs/n"),
        (defined(ref("n"), n=NESTED), "#/$defs/n"),
        (defined(ref("a~1b"), **{"a/b": ref("a~1b")}), "#/$defs/a~1b"),
    ],
)  # fmt: skip
def test_a_schema_without_a_finite_instance_is_found_with_its_part(schema, place):
    assert find_unsatisfiable(schema) == place


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        node(a=INTEGER),
        {"anyOf": [SELF, {"type": "null"}]},
        {"type": "object", "properties": {"next": SELF}},
        {"type": ["object", "null"], "required": ["next"], "properties": {"next": SELF}},
        {"required": ["next"], "properties": {"next": SELF}},
        {"type": "array", "items": SELF},
        {"type": "array", "minItems": 1, "items": {"anyOf": [SELF, INTEGER]}},
        {"type": "array", "minItems": 1, "prefixItems": [INTEGER, False]},
        {"type": "object", "properties": {"a": False}},
        {"type": "object", "required": ["a"]},
        {"type": "object", "required": ["b"], "patternProperties": {"^b": INTEGER}, "additionalProperties": False},
        defined(INTEGER, unused=False, ring=ref("ring")),
        defined(ref("tree"), tree=node(children={"type": "array", "items": ref("tree")})),
        {"enum": ["$ref", {"$ref": "#"}]},
        {"const": {"$ref": "#"}},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#/nowhere"},
    ],
)
def test_a_schema_with_an_instance_is_let_through(schema):
    assert find_unsatisfiable(schema) is None


def test_long_chains_of_definitions_are_followed_to_their_end():
    count = 3000
    definitions = {str(i): ref(str(i + 1)) for i in range(count)}
    assert find_unsatisfiable(defined(ref("0"), **definitions, **{str(count): INTEGER})) is None
    assert find_unsatisfiable(defined(ref("0"), **definitions, **{str(count): ref("0")})) == "#/$defs/0"


@pytest.fixture(scope="module")
def maker():
    tokenizer = Tokenizer.load(BASE)
    return GrammarMaker(tokenizer, 1024, (tokenizer.eos_token_id,))


def writes(maker, wanted, text):
    """Whether the grammar lets a text be written to its end."""
    grammar = maker.make(wanted)
    ids = maker._tokenizer.encode(text)
    for position in range(len(ids)):
        if not grammar.allows(ids[position]):
            return False
        grammar.advance(ids[: position + 1], 0)
    return True


def test_a_tools_schema_may_refer_to_its_own_definitions(maker):
    city = node(name={"type": "string"})
    tools = (
        {"name": "now", "parameters": defined(node(zone=ref("zone")), zone=INTEGER)},
        {"name": "weather", "parameters": defined(node(city=ref("zone")), zone=city)},
    )
    wanted = StructuredOutputs(tools=tools, require_tool=True)
    call = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
    assert writes(maker, wanted, call % ("weather", '{"city": {"name": "Oslo"}}'))
    assert writes(maker, wanted, call % ("now", '{"zone": 2}'))
    assert not writes(maker, wanted, call % ("weather", '{"city": 2}'))
    assert not writes(maker, wanted, call % ("now", '{"zone": {"name": "Oslo"}}'))


def test_unsatisfiable_schema_is_an_error_that_names_the_part(maker):
    ring = defined(ref("n"), n=node(c=ref("n")))
    for wanted in (StructuredOutputs(json=ring), StructuredOutputs(tools=({"name": "f", "parameters": ring},))):
        with pytest.raises(UserError, match=r"#/\$defs/n"):
            maker.make(wanted)
