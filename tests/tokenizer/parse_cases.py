"""Completions with what is to be read in them: what servers' parsers are known to get wrong, and more."""


def call(text):
    return f"<tool_call>\n{text}\n</tool_call>"


GOOD = '{"name": "f", "arguments": {"x": 1}}'
OTHER = '{"name": "g"}'
QUOTES = "{'name': 'f'}"
TRUNCATED = '<tool_call>\n{"name": "f", "arguments": {"x": "<tool_call>' + GOOD
# Each: a completion after an opened `<think>`, and its thinking, answer, calls and number of unreadable calls.
CASES = {
    "plain": ("a\nb\n</think>\n\nc\n", "a\nb", "c\n", [], 0),
    "own opening tag": ("<think>\na\n</think>\n\nc", "a", "c", [], 0),
    "opening tag after space": (" \n<think>a</think>c", "a", "c", [], 0),
    "never closed": ("a </thin\n\n", "a </thin", "", [], 0),
    "nothing": ("", "", "", [], 0),
    "only newlines": ("\n\n", "", "", [], 0),
    "newlines inside": ("\n\na\n\n\nb\n\n</think>c", "a\n\n\nb", "c", [], 0),
    "half a tag in the thought": ("a </thinking> b</think>c", "a </thinking> b", "c", [], 0),
    "tags quoted in the answer": (
        "a</think>\n\nuse <think> and </think>.",
        "a",
        "use <think> and </think>.",
        [],
        0,
    ),
    "one call": (f"a</think>\n\n{call(GOOD)}", "a", "", [("f", {"x": 1})], 0),
    "draft in the thought": (f"maybe {call(GOOD)}\n</think>\n\nNo.", f"maybe {call(GOOD)}", "No.", [], 0),
    "call in an unclosed thought": (f"do {call(GOOD)}", f"do {call(GOOD)}", "", [], 0),
    "text around calls": (
        f"</think>\n\nBefore.\n{call(GOOD)}\n{call(OTHER)}\nAfter.\n",
        "",
        "Before.\nAfter.",
        [("f", {"x": 1}), ("g", {})],
        0,
    ),
    "arguments first, called name": (
        "</think>" + call('{"arguments": {"name": "g", "arguments": 2}, "name": "f"}'),
        "",
        "",
        [("f", {"name": "g", "arguments": 2})],
        0,
    ),
    "tags inside strings": (
        "</think>" + call('{"name": "f", "arguments": {"x": "</tool_call><tool_call></think>"}}'),
        "",
        "",
        [("f", {"x": "</tool_call><tool_call></think>"})],
        0,
    ),
    "no newlines": (f"</think><tool_call>{GOOD}</tool_call><tool_call>{GOOD}", "", "", [("f", {"x": 1})] * 2, 0),
    "nesting and escapes": (
        "</think>" + call(r'{"name": "f", "arguments": {"a": [{"b": "}\"]\\"}], "c": "\u00e9\n"}}'),
        "",
        "",
        [("f", {"a": [{"b": '}"]\\'}], "c": "é\n"})],
        0,
    ),
    "arguments as a string": (
        "</think>" + call(r'{"name": "f", "arguments": "{\"x\": 1}"}'),
        "",
        "",
        [("f", {"x": 1})],
        0,
    ),
    "a name that nobody offers": ("</think>" + call('{"name": "zz"}'), "", "", [("zz", {})], 0),
    "broken, then good": (
        f"</think>See {call(QUOTES)}\n{call(GOOD)} end",
        "",
        f"See {call(QUOTES)}\n end",
        [("f", {"x": 1})],
        1,
    ),
    "one brace short": (
        "</think>" + call('{"name": "f", "arguments": {"x": 1}') + "!",
        "",
        call('{"name": "f", "arguments": {"x": 1}') + "!",
        [],
        1,
    ),
    "cut off in a string that quotes a call": (
        f"</think>{TRUNCATED}",
        "",
        '<tool_call>\n{"name": "f", "arguments": {"x": "',
        [("f", {"x": 1})],
        1,
    ),
    "cut off after the tag": ("</think>ok <tool_call>\n", "", "ok <tool_call>\n", [], 1),
    "half a closing tag": (f"</think><tool_call>{GOOD}</tool_c", "", "", [("f", {"x": 1})], 0),
    "only a closing tag's first character, behind a second call": (
        f"</think>{call(GOOD)}<tool_call>{GOOD}\n <",
        "",
        "",
        [("f", {"x": 1})] * 2,
        0,
    ),
    "half of the next call's tag": (f"</think><tool_call>{GOOD}\n<tool_c", "", "<tool_c", [("f", {"x": 1})], 0),
    "another tag where the closing one belongs": (
        f"</think><tool_call>{GOOD}</tool>",
        "",
        f"<tool_call>{GOOD}</tool>",
        [],
        1,
    ),
    "arguments under another word": (
        "</think>" + call('{"name": "f", "parameters": {"x": 1}}'),
        "",
        "",
        [("f", {"x": 1})],
        0,
    ),
    "half an opening tag": ("</think>a <tool_cal", "", "a <tool_cal", [], 0),
    "a number that no double holds": (
        "</think>" + call('{"name": "f", "arguments": {"x": 1e999}}'),
        "",
        call('{"name": "f", "arguments": {"x": 1e999}}'),
        [],
        1,
    ),
}
