"""Which block of a completion is the program."""

import pytest

from openqwq.verifiers.code import program
from openqwq.verifiers.code.program import Program, extract_code, find_program
from openqwq.verifiers.code.python_source import add_prelude, read_source

PROGRAM = "n = int(input())\nprint(n + 1)"
FUNCTION = "def area(w, h):\n    return w * h"


def found(text, **options):
    result = find_program(f"hm\n</think>\n\n{text}", ("python",), **options)
    return result and result.code.strip("\n")


def script(text):
    return found(text, reads_input=True)


def function(text):
    return found(text, entry_point="area")


BEHIND = {
    "output": "```\n7\n```",
    "named output": "```output\n7\n```",
    "several outputs": "Input\n```\n6\n```\nOutput\n```\n7\n```",
    "session": "```\n$ python3 add.py\n6\n7\n```",
    "console": "```pycon\n>>> area(2, 3)\n6\n```",
    "console named python": "```python\n>>> area(2, 3)\n6\n```",
    "trace": "```\nn = 6 -> 7\n```",
    "table": "```text\nO(1) time\n```",
    "json": '```json\n{"n": 6}\n```',
    "stray fence": "```",
    "stray fence and words": "```\nThis takes constant time, and no memory.",
    "build": "```sh\npip install nothing\n```",
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_stands_behind_the_program_is_not_taken_for_it(name):
    assert script(f"```python\n{PROGRAM}\n```\n\nIt prints:\n\n{BEHIND[name]}") == PROGRAM
    assert function(f"```py\n{FUNCTION}\n```\n\nThat is:\n\n{BEHIND[name]}") == FUNCTION


@pytest.mark.parametrize(
    "usage",
    [
        "print(area(2, 3))",
        "from shapes import area\nassert area(1, 1) == 1",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(area(1, 2), 2)",
        "if __name__ == '__main__':\n    print(area(4, 4))",
        "def area(w, h):\n    ...",
    ],
)
def test_block_that_defines_the_function_is_the_program(usage):
    assert function(f"```python\n{FUNCTION}\n```\nUse it so:\n```python\n{usage}\n```") == FUNCTION
    assert function(f"```\n{FUNCTION}\n```\nUse it so:\n```python\n{usage}\n```") == FUNCTION


def test_last_of_several_programs_counts():
    other = PROGRAM.replace("1", "2")
    assert script(f"Draft:\n```python\n{PROGRAM}\n```\nBetter:\n```python\n{other}\n```") == other
    assert script(f"```\n{PROGRAM}\n```\nBetter:\n```\n{other}\n```") == other
    assert function(f"```python\n{FUNCTION}\n```\n```python\n{FUNCTION} + 0\n```") == f"{FUNCTION} + 0"
    assert script(f"```python\n{PROGRAM}\n```\n```python\nprint(solve(3))\n```") == PROGRAM
    assert script(f"```python\n{PROGRAM}\n```\nAs a check:\n```python\nprint(3 + 1)\n```") == PROGRAM


def test_program_in_several_blocks_is_put_together():
    helper, main = "def double(x):\n    return 2 * x", "print(double(int(input())))"
    guard = "if __name__ == '__main__':\n    main()"
    body = "def main():\n    print(int(input()))"
    assert script(f"```python\n{helper}\n```\nthen\n```python\n{main}\n```") == f"{helper}\n\n{main}"
    assert script(f"```python\n{body}\n```\nthen\n```python\n{guard}\n```") == f"{body}\n\n{guard}"
    uses = "def area(w, h):\n    return double(w * h) // 2"
    assert function(f"```python\n{helper}\n```\n```python\n{uses}\n```") == f"{helper}\n\n{uses}"


@pytest.mark.parametrize(
    "info",
    [
        "python3.12", "Python 3", 'python title="add.py"', "{python}", "{.python .numberLines}", "py3", "python copy",
        "python:add.py", "python,linenos", "python {1,3}", "add.py", "answer", "code", "language-python", "pypy3", "",
        "python-3.11", "  python  ",
    ],
)  # fmt: skip
def test_fence_names_python_in_many_ways(info):
    assert script(f"```{info}\n{PROGRAM}\n```") == PROGRAM
    assert script(f"~~~ {info}\n{PROGRAM}\n~~~") == PROGRAM


@pytest.mark.parametrize("info", ["rust", "c++17", "text", "javascript title=x", "{r}", "add.js", "go1.22", "cobol"])
def test_fence_of_another_language_is_no_python(info):
    assert script(f"```{info}\n{PROGRAM}\n```") is None


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("c++20", "cpp"),
        ("cpp17", "cpp"),
        ("main.cpp", "cpp"),
        ("gnu++17", "cpp"),
        ("golang", "go"),
        ("solution", "cpp"),
    ],
)
def test_fence_names_other_languages_in_many_ways(name, language):
    code = "int main() {}\n" if language == "cpp" else "func main() {}\n"
    assert find_program(f"</think>```{name}\n{code}```", ("cpp", "go")) == Program(code, language)


def test_program_in_another_language_is_told_from_its_parts():
    code = "int main() { return 0; }\n"
    text = f"</think>\n```cpp\n{code}```\nThe loop was\n```cpp\nfor (;;) {{}}\n```\n```\n3\n```"
    assert find_program(text, ("cpp",)) == Program(code, "cpp")


INDENTED = PROGRAM.replace("\n", "\n   ")


@pytest.mark.parametrize(
    "text",
    [
        f"1. So:\n\n   ```python\n   {INDENTED}\n   ```",
        f"10) ```python\n    {PROGRAM.replace(chr(10), chr(10) + '    ')}\n    ```",
        f"- ```python\n  {PROGRAM.replace(chr(10), chr(10) + '  ')}\n  ```",
        f"\t\t```python\n\t\t{PROGRAM.replace(chr(10), chr(10) + chr(9) * 2)}\n\t\t```",
        f"> ```python\n> {PROGRAM.replace(chr(10), chr(10) + '> ')}\n> ```",
        f"   ```python\n{PROGRAM}\n   ```",
        f"```python\n   {INDENTED}\n```",
        f"````\n```python\n{PROGRAM}\n```\n````",
        f"````markdown\nHere:\n```python\n{PROGRAM}\n```\nand text\n````",
        f"`````python\n{PROGRAM}\n`````",
        f"~~~~python\n{PROGRAM}\n~~~~",
        f"My program: ```python\n{PROGRAM}\n```",
        f"**Program**```py\n{PROGRAM}\n```",
        f"```\n```python\n{PROGRAM}\n```\n```",
        f"Use ```int``` twice.\n```python\n{PROGRAM}\n```",
        f"``` is a fence.\n\n```python\n{PROGRAM}\n```",
        f"```python\nn = int(\n\nThat was cut. Again:\n```python\n{PROGRAM}\n```",
    ],
)
def test_program_is_read_out_of_lists_quotes_and_other_fences(text):
    assert script(text) == PROGRAM


def test_body_of_a_program_keeps_its_own_indentation():
    code = "def area(w, h):\n  x = '''\na\n  b'''\n  return w * h"
    assert function(f"   ```python\n{code}\n   ```") == code
    shifted = code.replace("\n", "\n   ")
    assert function(f"   ```python\n   {shifted}\n   ```") == code


@pytest.mark.parametrize("quotes", ["'''", '"""'])
def test_fences_inside_of_a_text_of_the_program_end_nothing(quotes):
    code = f"def area(w, h):\n    {quotes}Area.\n\n    ```\n    area(1, 2)\n    ```\n    {quotes}\n    return w * h"
    assert function(f"```python\n{code}\n```\n\nIt gives\n```\n2\n```") == code
    code = f"usage = {quotes}\n```python\nprint(1)\n```\n{quotes}\n{PROGRAM}"
    assert script(f"```python\n{code}\n```") == code
    assert script(f"```\n{code}\n```") == code


@pytest.mark.parametrize(
    "code",
    [
        "TAG = '</think>'\nn = int(input())\nprint(n)",
        "import re\nprint(re.sub('<think>.*?</think>', '', input()))",
        "# <think>\n# </think>\nprint(input())",
        "TEXT = '''\n<think>\n</think>\n'''\nprint(input())",
    ],
)
def test_tags_inside_of_the_program_are_text(code):
    assert script(f"```python\n{code}\n```") == code
    assert script(f"The `<think>` block and `</think>` are cut.\n```python\n{code}\n```\nNo <think> is left.\n") == code
    assert script(f"```python\n{code}\n```\nIt prints\n```\n7\n```\nfor seven.") == code
    assert (
        script(f"so `</think>` ends it\n```python\ndraft = '</think>'\n```\n</think>\n```python\n{code}\n```") == code
    )


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{PROGRAM}\n```\n<think>\nAgain: ",
        f"```python\n{PROGRAM}\n```\n<think>\n```python\n{PROGRAM}\n```",
        f"```python\n{PROGRAM}\n```\n```python\n{PROGRAM}",
        f"```python\n{PROGRAM}\n```\n```\n{PROGRAM}",
        f"```python\n{PROGRAM}",
        PROGRAM,
        "```\n```",
    ],
)
def test_reopened_thinking_and_cut_programs_have_no_program(text):
    assert not (script(text) or "").strip()


def test_thinking_that_is_not_closed_has_no_program():
    assert find_program(f"```python\n{PROGRAM}\n```", ("python",)) is None


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" * 50_000, "```\n1 1\n```\n" * 30_000, "`" * 200_000, ("`" * 9 + " ") * 30_000, "> " * 100_000,
        "".join("`" * n + "\n" for n in range(600, 3, -1)), "```python\n'''\n```\n" * 20_000, "</think>" * 50_000,
        "```python\n" + "(" * 60_000 + "\n```", "```python\n" + "-" * 60_000 + "1\n```", "x" * 300_000 + "```python x",
        "```\nf(1) + \n```\n</think>\n" * 3_000, "- " * 100_000 + "```", "```python\n" + "a." * 30_000 + "a\n```",
    ],
)  # fmt: skip
def test_runaway_text_is_searched_with_few_parses(text, monkeypatch):
    parsed = []
    monkeypatch.setattr(program, "read_source", lambda code: parsed.append(code) or read_source(code))
    extract_code("t</think>\n" + text)
    assert len(parsed) <= program.MAX_PARSES


def test_source_tells_what_a_text_is():
    source = read_source("import sys\nfrom a import b\nclass S:\n    def f(self): return g(b)\nx = 1\n")
    assert source and source.defines == {"S", "S.f", "x"}
    assert (source.missing, source.acts, source.reads) == ({"g"}, False, False)
    assert read_source("import sys\nx = sys.stdin.read()").acts
    assert not read_source("import sys\nsys.setrecursionlimit(9)\nread = sys.stdin.readline").acts
    assert read_source("def (") is None and read_source("x = '" + "a" * 70_000 + "'") is None


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\ndef f(x: Undefined): return x",
        '"""Doc."""\nfrom __future__ import annotations, division\ndef f(x: Undefined): return x',
        "# -*- coding: utf-8 -*-\n'''é'''; from __future__ import annotations; y = 2\ndef f(x: Undefined): return x",
        "from __future__ import (\n    annotations,\n)\ndef f(x: Undefined): return x",
    ],
)
def test_future_imports_come_before_a_prelude(code):
    text = add_prelude("import math\n\ndef helper(): return 1", code)
    tree = compile(text, "p", "exec", dont_inherit=True)
    assert tree.co_flags & 0x1000000  # annotations are not evaluated
    assert "helper" in text and text.count("\n") - code.count("\n") == 4
    assert add_prelude("import math", "x = '__future__'") == "import math\nx = '__future__'"
