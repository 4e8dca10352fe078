"""What the page makes of any text: the right elements, in one pass, however it is nested and however it arrives."""

import pytest

pytestmark = pytest.mark.browser

SHOW = """
([text, size]) => {
  const element = document.createElement("div");
  const view = new markdown.MarkdownView(element);
  for (let end = size; size && end < text.length; end += size) view.show(text.slice(0, end));
  view.show(text);
  return element.innerHTML;
}
"""

LINK = '<a href="https://x.y" rel="noreferrer noopener" target="_blank">'


@pytest.fixture(scope="module")
def page(browser, live):
    opened = browser.new_page()
    opened.goto(f"{live.url}/page/map.json")
    opened.evaluate("async () => { window.markdown = await import('/page/markdown.js'); }")
    yield opened
    opened.close()


def show(page, text, size=0):
    return page.evaluate(SHOW, [text, size])


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb", "<p>a\nb</p>"),
        ("# One #\ntext\n## Two\n- a\n- b", "<h1>One</h1><p>text</p><h2>Two</h2><ul><li>a</li><li>b</li></ul>"),
        ("> a\n> > b\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
        ("text\n> quote", "<p>text</p><blockquote><p>quote</p></blockquote>"),
        ("2. a\n   - b\n3. c", '<ol start="2"><li>a<ul><li>b</li></ul></li><li>c</li></ol>'),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        ("**a *b* c** and _d_", "<p><strong>a <em>b</em> c</strong> and <em>d</em></p>"),
        ("2 * 3 * 4, a_b_c, **open", "<p>2 * 3 * 4, a_b_c, **open</p>"),
        ("**a ** b**", "<p><strong>a ** b</strong></p>"),
        ("`a*b*` ``c`d`` `e", "<p><code>a*b*</code> <code>c`d</code> `e</p>"),
        ("~~a~~ \\*b\\*", "<p><s>a</s> *b*</p>"),
        ("costs $5 and $6", "<p>costs $5 and $6</p>"),
        ("[b](https://x.y) [c](javascript:d)", f"<p>{LINK}b</a> [c](javascript:d)</p>"),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>"),
        ("|a|\n|-|\n|b\\|c|", "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b|c</td></tr></tbody></table>"),
        ("a | b\nno table", "<p>a | b\nno table</p>"),
    ],
)  # fmt: skip
def test_markdown_becomes_its_elements(page, text, html):
    assert show(page, text) == html


def test_formulas_are_drawn_inline_and_apart(page):
    assert show(page, "so $x'^2$ is").count("<math ") == 1
    assert 'display="block"' in show(page, "$$\n\\frac{1}{2}\n$$")
    assert 'display="block"' in show(page, "a \\[ x \\] b")
    assert 'class="boxed"' in show(page, "\\boxed{\\frac{a_{1}}{b^{c_{2}}}}")
    assert show(page, "\\boxed{open") == "<p>\\boxed{open</p>"


def test_programs_are_coloured(page):
    html = show(page, "```python\nreturn 'a' + \"b # c\"  # note 5\nx = 7\n```")
    for kind, piece in (("k", "return"), ("s", "'a'"), ("s", '"b # c"'), ("c", "# note 5"), ("n", "7")):
        assert f'<span class="{kind}">{piece}</span>' in html
    assert "<span" not in show(page, "```\nit`s plain, isn\n```").partition("<code>")[2]


ODD = [
    (">", 3000, " x"),
    ("# h\n", 12_000, ""),
    ("> - ", 2000, "x"),
    ("- ", 3000, "x"),
    ("$x^{", 2000, "$"),
    ("\\sqrt", 5000, "x"),
    ("[", 20_000, "](https://x.y)"),
    ("**a *b ~~c [", 2000, "](https://x.y)"),
    ("a\n", 20_000, ""),
    ("\u202e\ud83d ", 2000, ""),
    ("- a\n\n", 5000, ""),
]


@pytest.mark.parametrize(("part", "count", "tail"), ODD)
def test_any_nesting_shows_something_readable(page, part, count, tail):
    shown = page.evaluate(
        "([part, count, tail]) => {"
        " const element = document.createElement('div');"
        " document.body.append(element);"
        " new markdown.MarkdownView(element).show(part.repeat(count) + tail);"
        " const told = element.textContent.length; const height = element.getBoundingClientRect().height;"
        " element.remove(); return [told, height]; }",
        [part, count, tail],
    )
    assert min(shown) > 0


TEXT = """# Title

Some **bold** text with $x^2$ and `code`.

- one
- two

  more of two
- three

> quoted
> > twice

```python
def f(x):

    return x  # $$
```

| a | b |
|---|---|
| 1 | 2 |

$$
\\frac{1}{2}
$$

Last *line*
## and a heading
end"""


@pytest.mark.parametrize("size", [1, 3, 17, 64])
def test_a_text_that_arrives_in_pieces_ends_as_the_whole_one(page, size):
    assert show(page, TEXT, size) == show(page, TEXT)


def test_settled_blocks_are_not_made_again_while_the_text_grows(page):
    kept = page.evaluate(
        """(text) => {
          const element = document.createElement("div");
          const view = new markdown.MarkdownView(element);
          view.show(text);
          const before = [...element.children];
          view.show(text + " and more");
          view.show(text + " and more\\n\\nnext");
          const same = before.slice(0, -1).every((one, i) => one === element.children[i]);
          return same && element.children.length === before.length + 1;
        }""",
        TEXT,
    )
    assert kept


def test_another_text_takes_the_place_of_the_one_shown(page):
    html = page.evaluate(
        """() => {
          const element = document.createElement("div");
          const view = new markdown.MarkdownView(element);
          for (const text of ["a\\n\\nb\\n\\nc", "x\\n\\nb", "", "y"]) view.show(text);
          return element.innerHTML;
        }"""
    )
    assert html == "<p>y</p>"
