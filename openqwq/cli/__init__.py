"""The command line: one module a verb, found by its file name.

A verb `NAME` is the file NAME.py in this folder. The first line of its docstring is its help; it defines
`add_arguments(parser)` and `run(args) -> int`, and imports heavy things inside `run` only.
Files whose names begin with `_`, and main.py, are not verbs.
"""
