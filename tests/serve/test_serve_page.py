"""The page in a headless Chromium: chat, comparison, run and map do what their controls say."""

import json
import re
from pathlib import Path

import pytest
from serve_support import FakeEngine, running

from openqwq.errors import UserError
from openqwq.serve import ServedModel
from openqwq.types import Message, Problem, Verdict

pytestmark = pytest.mark.browser
TIMEOUT_MS = 60_000
ROOT = Path(__file__).parents[2]
ANSWER = (
    "First $x$ alone.\n</think>\n\n## So\n\n**Five**: $$\\frac{10}{2}$$\n\n"
    "```python\nreturn 5\n```\n\n| a | b |\n|---|--:|\n| x \\| y | 1 |\n\n"
    "<img src=x onerror=alert(1)> [no](javascript:alert(1))"
)
CALL = '</think>\n\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOLS = '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'


class FakeExperiment:
    """Problems whose right answers hold the word "five"."""

    families = ("sums", "words")
    max_tokens = 300

    def __init__(self):
        self.has_report = False
        self.step = 1

    def draw(self, family):
        family = family or "sums"
        message = Message("user", f"How much is it, {family}?")
        return Problem(id=f"{family}/1", source=family, kind="math", messages=(message,), verifier="math", answer="5")

    def judge(self, family, problem_id, text, finish_reason):
        assert (problem_id, finish_reason) == (f"{family}/1", "stop")
        return Verdict.correct() if "Five" in text.partition("</think>")[2] else Verdict.wrong("no five in it")

    def report(self):
        if not self.has_report:
            raise UserError("nothing was evaluated yet")
        text = "<!doctype html><title>r</title><h1>Report of the run</h1>"
        return (
            f"{text}<p>step {self.step}</p><details><summary>a</summary>b</details><div style='height: 5000px'></div>"
        )


@pytest.fixture(scope="module")
def engines(tokenizer):
    return FakeEngine(tokenizer), FakeEngine(tokenizer)


@pytest.fixture(scope="module")
def site(engines, tokenizer):
    models = [
        ServedModel(name=name, engine=engine, tokenizer=tokenizer, max_model_len=2048, vocab_size=1024)
        for name, engine in zip(("before", "after"), engines, strict=True)
    ]
    with running(models) as live:
        live.server.experiment = FakeExperiment()
        yield live


@pytest.fixture
def page(browser, site, request):
    faults = []
    width = getattr(request, "param", 1100)
    context = browser.new_context(viewport={"width": width, "height": 760}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(TIMEOUT_MS)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: faults.append("a dialog opened"))
    outside = []
    opened.on("request", lambda made: outside.append(made.url) if not made.url.startswith(site.url) else None)
    opened.goto(f"{site.url}/#chat")
    opened.wait_for_selector("html[data-ready]", state="attached")
    yield opened
    context.close()
    assert faults == []
    assert outside == []


def ask(page, text):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def finished(page, count=1):
    page.locator(".facts:not(:empty)").nth(count - 1).wait_for()


def test_a_question_is_answered_with_thinking_markdown_and_maths(page, engines):
    engines[0].text = ANSWER
    ask(page, "What is x?")
    finished(page)
    assert page.locator(".turn.user .body").text_content() == "What is x?"
    summary = page.locator("details.thinking summary")
    tokens = len(engines[0].tokenizer.encode("First $x$ alone.\n</think>"))
    assert summary.text_content().startswith("Thought for ") and summary.text_content().endswith(f", {tokens} tokens")
    assert not page.locator("details.thinking .text").is_visible()
    summary.click()
    assert page.locator("details.thinking .text").text_content() == "First $x$ alone."
    assert page.locator(".answer h2").text_content() == "So"
    assert page.locator(".answer strong").text_content() == "Five"
    assert page.locator(".answer math mfrac").count() == 1
    assert page.locator(".answer pre code .k").text_content() == "return"
    assert page.locator(".answer td").all_text_contents() == ["x | y", "1"]
    assert page.locator(".answer td").last.get_attribute("style") == "text-align: right"
    assert page.locator(".answer img").count() == page.locator(".answer a").count() == 0
    assert "<img src=x" in page.locator(".answer").text_content()


def test_conversations_are_kept_edited_asked_again_and_exported(page, engines):
    engines[0].text = "hm</think>one"
    ask(page, "first question")
    finished(page)
    engines[0].text = "hm</think>two"
    page.click("text=Regenerate")
    page.wait_for_selector(".answer:has-text('two')")
    page.click(".turn.user >> text=Edit")
    page.fill(".turn.user textarea", "other question")
    engines[0].text = "hm</think>three"
    page.click("text=Ask again")
    page.wait_for_selector(".answer:has-text('three')")
    finished(page)
    page.reload()
    assert page.locator(".answer").text_content() == "three"
    assert engines[0].tokenizer.decode(engines[0].requests[-1][0]).count("question") == 1
    with page.expect_download() as download:
        page.click("text=Export Markdown")
    exported = download.value.path().read_text()
    assert "other question" in exported and "three" in exported and "<details>" in exported
    page.click("#new-chat")
    assert page.locator(".turn").count() == 0
    page.click("[aria-label='Delete first question']")
    assert page.locator("#conversations li").count() == 0


def test_the_model_is_picked_above_the_conversation_and_named_under_its_answers(page, engines, site):
    engines[0].text, engines[1].text = "hm</think>one", "hm</think>two"
    picker = page.get_by_label("Model", exact=True).first
    assert picker.locator("option").all_text_contents() == ["before", "after"]
    box, conversation = picker.bounding_box(), page.locator("#main").bounding_box()
    assert box["y"] + box["height"] <= conversation["y"] + 1
    ask(page, "first")
    finished(page)
    picker.select_option("after")
    ask(page, "second")
    finished(page, 2)
    facts = page.locator(".facts").all_text_contents()
    assert facts[0].startswith("before, ") and facts[1].startswith("after, ")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.locator("#model").input_value() == "after"
    assert page.locator(".facts").first.text_content().startswith("before, ")
    page.click("#settings-button")
    page.wait_for_function("document.querySelector('#settings select').value === 'after'")


def test_a_chosen_model_that_is_no_longer_served_gives_way(page, engines):
    page.evaluate("localStorage.setItem('openqwq.settings', JSON.stringify({model: 'gone', top_k: '7'}))")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    engines[0].text = "hm</think>one"
    ask(page, "anyone?")
    finished(page)
    assert page.locator(".facts").text_content().startswith("before, ")
    assert engines[0].requests[-1][1].top_k == 7


def test_a_question_is_edited_with_the_keys_of_the_composer(page, engines):
    engines[0].text = "hm</think>one"
    ask(page, "question")
    finished(page)
    page.click(".turn.user >> text=Edit")
    field = page.locator(".turn.user textarea")
    assert "Enter asks again" in page.locator(".turn.user .keys").text_content()
    field.press("Escape")
    assert page.locator(".turn.user .body").text_content() == "question"
    page.click(".turn.user >> text=Edit")
    field.fill("first line")
    field.press("End")
    field.press("Shift+Enter")
    field.type("second")
    engines[0].text = "hm</think>two"
    field.press("Enter")
    page.wait_for_selector(".answer:has-text('two')")
    assert page.locator(".turn.user .body").text_content() == "first line\nsecond"


def test_stop_ends_the_answer_on_the_server(page, engines):
    engines[0].text, engines[0].pause_s = "word " * 300, 0.05
    try:
        ask(page, "go on")
        page.wait_for_selector("details.thinking:not([hidden])", state="attached")
        assert not page.locator("#send").is_visible()
        page.click("text=Stop thinking, answer now")
        page.press("#prompt", "Escape")
        page.wait_for_selector("#send")
        last = engines[0].requests[-1][2]
        for _ in range(200):
            if last in engines[0].ended:
                break
            page.wait_for_timeout(25)
        assert last in engines[0].ended
        assert engines[0].told == [last]
        assert page.locator("details.thinking summary").text_content().startswith("Thought for ")
        assert page.locator(".facts").text_content().endswith(" s, stopped")
    finally:
        engines[0].pause_s = 0.0


def test_settings_shape_the_request_and_calls_take_results(page, engines):
    page.click("#settings-button")
    page.wait_for_selector("#settings select option", state="attached")
    page.fill("[name=system]", "be brief")
    page.fill("[name=temperature]", "0.9")
    page.fill("[name=thinking_budget]", "50")
    page.fill("[name=tools]", "nonsense")
    page.click("#settings >> text=Done")
    assert "no JSON list" in page.locator("#settings-error").text_content()
    page.fill("[name=tools]", TOOLS)
    page.click("#settings >> text=Done")
    engines[0].text = CALL
    ask(page, "1+1?")
    page.fill(".call textarea", "2")
    prompt, params, _ = engines[0].requests[-1]
    assert (params.temperature, params.thinking_budget) == (0.9, 50)
    assert "be brief" in engines[0].tokenizer.decode(prompt)
    assert page.locator(".call strong").text_content() == "add"
    engines[0].text = "</think>It is 2."
    page.click("text=Send results")
    page.wait_for_selector(".answer:has-text('It is 2.')")
    assert "<tool_response>\n2\n</tool_response>" in engines[0].tokenizer.decode(engines[0].requests[-1][0])


def test_errors_of_the_server_are_shown(page, engines):
    page.evaluate("localStorage.setItem('openqwq.settings', JSON.stringify({model: 'gone'}))")
    ask(page, "anyone?")
    warning = page.wait_for_selector(".warning:has-text('there is no model')")
    assert "gone" in warning.text_content()


def test_two_checkpoints_answer_the_same_problem_and_are_judged(page, engines):
    engines[0].text, engines[1].text = "hm</think>Four", "hm</think>Five"
    page.click("#views >> text=Compare")
    page.wait_for_selector("text=held-out problem")
    page.select_option("#compare select", "words")
    page.click("text=Try an example")
    page.wait_for_selector("text=words, held-out problem words/1")
    page.press("#compare textarea", "Control+Enter")
    page.wait_for_selector("[data-model=before] .verdict:has-text('wrong: no five in it')")
    page.wait_for_selector("[data-model=after] .verdict:has-text('correct')")
    assert engines[0].requests[-1][0] == engines[1].requests[-1][0]
    assert "How much is it, words?" in engines[0].tokenizer.decode(engines[0].requests[-1][0])
    assert engines[0].requests[-1][1].seed == engines[1].requests[-1][1].seed is not None


def test_the_run_view_says_what_is_missing_and_then_shows_the_report(page, site):
    page.route("**/run/report", lambda route: (page.locator("text=Making the report").wait_for(), route.continue_()))
    page.click("#views >> text=Run")
    frame = page.frame_locator("#run iframe")
    frame.locator("text=nothing was evaluated yet").wait_for()
    site.server.experiment.has_report = True
    page.reload()
    report = page.frame_locator("#run iframe")
    report.locator("h1:has-text('Report of the run')").wait_for()
    assert report.locator("text=nothing was evaluated yet").count() == 0


def test_the_run_view_follows_the_run_and_its_reader_stays_in_place(page, site):
    run = site.server.experiment
    run.has_report = True
    page.clock.install()
    page.click("#views >> text=Run")
    report = page.frame_locator("#run iframe")
    report.locator("text=step 1").wait_for()
    root = report.locator("html")
    root.evaluate("e => { e.querySelector('details').open = true; e.scrollTop = 700; }")
    run.step = 2
    page.clock.fast_forward(11_000)
    report.locator("text=step 2").wait_for()
    report.locator("details[open]").wait_for()
    assert root.evaluate("e => e.scrollTop") == 700


def test_the_map_tells_of_ideas_and_can_be_moved(page):
    page.click("#views >> text=How it works")
    node = page.locator("#map .node[data-id=verify]")
    node.click()
    page.locator("#map aside h2:has-text('Verifier')").wait_for()
    assert page.locator("#map .edge.lit").count() == 2
    assert page.locator("#map .node").count() >= 15
    page.locator("#map .node[data-id=engine]").focus()
    page.keyboard.press("Enter")
    page.locator("#map aside h2:has-text('Engine')").wait_for()
    picture = page.locator("#map svg")
    before = picture.get_attribute("viewBox")
    place = node.get_attribute("transform")
    box = node.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.wheel(0, -300)
    assert picture.get_attribute("viewBox") != before
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 60)
    page.mouse.up()
    assert node.get_attribute("transform") != place


def value_at(data, path):
    """The value that a path of the map means, as `table/arm=tiny,kind=math/before`."""
    for key in path.split("/"):
        if "=" in key:
            wanted = dict(pair.split("=") for pair in key.split(","))
            [data] = [row for row in data if wanted.items() <= row.items()]
        else:
            data = data[key]
    return data


def test_every_number_of_the_map_is_a_link_to_a_source_or_a_result():
    nodes = json.loads((ROOT / "openqwq" / "serve" / "page" / "map.json").read_text())["nodes"]
    texts = [text for node in nodes for text in node["text"]]
    bare = [re.sub(r"\[[^\]]+\]\(https://[^)]+\)|\{\w+ [^}]+\}", "", text) for text in texts]
    assert [text for text in bare if re.search(r"(?<![\w-])\d", text)] == []  # but for names, as QwQ-32B
    figures = [found for text in texts for found in re.findall(r"\{(\w+) ([^}]+)\}", text)]
    results = {file: ROOT / "benchmarks" / "results" / f"{file}.json" for file, _ in figures}
    known = [(results[file], path) for file, path in figures if results[file].is_file()]
    assert len(known) >= 10
    for file, path in known:
        assert isinstance(value_at(json.loads(file.read_text()), path), (int, float)), path


def test_the_map_shows_figures_as_the_result_files_have_them(page, site):
    page.click("#views >> text=How it works")
    page.locator("#map .node[data-id=rl1]").click()
    link = page.locator("#map aside a[href='page/results/tiny.json']").first
    tiny = site.web.get("/page/results/tiny.json").json()
    assert link.text_content() == f"{value_at(tiny, 'table/arm=tiny,stage=stage 1,kind=math/before'):.1f}"
    assert site.web.get("/page/results/none.json").status_code == 404
    assert site.web.get("/page/results/..%2Fserve.py").status_code == 404


@pytest.mark.parametrize("page", [380], indirect=True)
def test_on_a_phone_the_map_shows_the_chosen_idea_at_a_size_to_be_read(page):
    page.click("#views >> text=How it works")
    page.locator("#map aside button:has-text('Cold start')").click()
    page.locator("#map aside h2:has-text('Cold start')").wait_for()
    node, picture = (page.locator(f"#map {which}").bounding_box() for which in (".node[data-id=cold]", "svg"))
    assert node["height"] > 25 and picture["height"] < 400
    assert abs(node["x"] + node["width"] / 2 - picture["width"] / 2) < 5


@pytest.mark.parametrize("page", [380], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen(page, engines):
    engines[0].text = ANSWER
    ask(page, "What is x? " + "x" * 120)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('#views'))") <= 0
    box = page.locator("#prompt")
    assert box.evaluate("e => e.scrollHeight") <= box.evaluate("e => e.clientHeight")  # the placeholder fits
    assert not page.locator("#new-chat").is_visible()
    page.click("#drawer-button")
    assert page.locator("#new-chat").is_visible()
    for control in page.locator("button:visible").all():
        assert control.evaluate("e => (e.getAttribute('aria-label') ?? e.textContent).trim()")
