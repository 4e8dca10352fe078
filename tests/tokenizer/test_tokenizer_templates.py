"""Chat templates that others wrote: the tags and functions they rely on, and bounds for those that never end."""

from datetime import datetime

import pytest

from openqwq.errors import UserError
from openqwq.tokenizer import load_default_template, render_chat, template_variables

TURNS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


def render(template, **options):
    return render_chat(template, TURNS, add_generation_prompt=False, **options)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}",
        "{% for m in messages %}[{%- generation -%} {{ m.content }} {%- endgeneration -%}]{% endfor %}",
        "{% macro f(x) %}{{ x }}{% endmacro %}"
        "{% for m in messages %}[{% generation %}{{ f(m.content) }}{% endgeneration %}]{% endfor %}",
        "{% for m in messages %}[{% if m.role == 'user' %}{{ m.content }}{% else %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endif %}]{% endfor %}",
    ],
)
def test_generation_tags_leave_their_contents_as_they_are(template):
    assert render(template) == "[question][answer]"


def test_a_name_set_inside_generation_tags_stays_inside_as_with_transformers():
    template = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(template) == "21"


def test_an_unclosed_generation_tag_is_refused():
    with pytest.raises(UserError, match="not valid jinja"):
        render("{% generation %}{{ messages }}")


def test_strftime_now_gives_the_date():
    before = datetime.now()
    text = render("{{ date_string | default(strftime_now('%Y-%m-%d %H')) }}")
    assert before.strftime("%Y-%m-%d %H") <= text <= datetime.now().strftime("%Y-%m-%d %H")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 'x' * 4000000000 }}", "MiB of memory"),
        ("{{ '%2000000000d' % 1 }}", "MiB of memory"),
        ("{{ '{:>3000000000}'.format(1) }}", "MiB of memory"),
        ("{{ messages | tojson(indent=2000000000) }}", "MiB of memory"),
        (
            "{% set n = namespace(x='x') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "more than",
        ),
        ("{{ 'x' * 20000000 }}", "20000000 characters"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "RecursionError"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
        ("{% include 'x' %}", "no loader"),
        ("{% extends 'x' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('only two turns') }}", "only two turns"),
    ],
)
def test_a_template_that_fails_or_grows_without_end_is_a_user_error(template, reason):
    with pytest.raises(UserError, match=reason) as caught:
        render(template)
    assert "chat template cannot render" in caught.value.message and len(caught.value.message) < 400


def test_a_template_without_end_is_ended_and_the_next_one_renders():
    with pytest.raises(UserError, match="more than 3 seconds of computing"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert render("{{ messages[1].content }}") == "answer"


def test_foreign_and_shipped_templates_give_the_same_text_in_and_out_of_the_process():
    turns = [{"role": "user", "content": "naïve \ud800 \u2028 <|im_end|> \x00"}]
    foreign = load_default_template() + "{# copied #}"
    assert render_chat(foreign, turns) == render_chat(load_default_template(), turns)


def test_values_that_are_no_json_are_refused():
    with pytest.raises(UserError, match="texts, numbers, lists and objects"):
        render_chat("{{ messages }}", [{"role": "user", "content": "a", "when": datetime.now()}])


def test_variables_are_those_that_a_template_reads_and_nobody_sets():
    template = "{% set a = 1 %}{{ a }}{{ b }}{% generation %}{{ c }}{% endgeneration %}{{ strftime_now('%d') }}"
    assert template_variables(template) == {"b", "c"}
    with pytest.raises(UserError, match="not valid jinja"):
        template_variables("{% if %}")
