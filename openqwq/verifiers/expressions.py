"""Arithmetic over names, read from text into sympy values without any of it being evaluated as Python.

Public: `read_expression`. sympy's own readers of text (`sympify`, `parse_expr`, `N` and `equals` of a text) end in
`eval`, so text goes through this reader, or through the LaTeX reader, and nowhere else.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import sympy

_FUNCTIONS = (
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh sqrt log ln exp Abs factorial binomial gcd lcm Min Max "
    "floor ceiling Rational Integer Float"
)
_NAMES: dict[str, Any] = {name: getattr(sympy, name) for name in [*_FUNCTIONS.split(), "pi", "E", "I", "oo", "zoo"]}


def read_expression(text: str, *, unknown_functions: bool = True) -> Any:
    """The sympy value of numbers, names, operators, comparisons, lists and calls of known functions.

    unknown_functions: take `f(x)` for a function that nothing is known of. `^` is an exclusive or, as in Python.
    Raises SyntaxError or ValueError for every other text, and whatever sympy raises on such values.
    """
    return _value(ast.parse(text.strip(), mode="eval").body, unknown_functions)


def _value(node: ast.expr, unknown: bool) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return sympy.Integer(node.value) if isinstance(node.value, int) else sympy.Float(ast.unparse(node))
    if isinstance(node, ast.Name):
        return _NAMES.get(node.id, sympy.Symbol(node.id))
    if isinstance(node, ast.Tuple | ast.List):
        items = [_value(item, unknown) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Set):
        return {_value(item, unknown) for item in node.elts}
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, unknown) if isinstance(node.op, ast.USub) else +_value(node.operand, unknown)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, unknown), _value(node.right, unknown))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        return _COMPARISONS[type(node.ops[0])](_value(node.left, unknown), _value(node.comparators[0], unknown))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _NAMES.get(node.func.id) or (sympy.Function(node.func.id) if unknown else None)
        if function is not None:
            return function(*(_value(argument, unknown) for argument in node.args))
    raise ValueError("not an expression")


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
    ast.BitXor: lambda a, b: a ^ b,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
