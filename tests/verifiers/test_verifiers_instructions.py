"""IFEval's kinds: each followed and broken, at the official checker's borders."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.instructions import CHECKS, require_supported
from openqwq.verifiers.instructions.sentences import count_sentences, read_punkt
from openqwq.verifiers.instructions.text import count_capital_tokens, count_words

DATA = Path(__file__).parents[2].parent / "shared" / "data"
STRICT = get_verifier("instructions")

WORDS = {"num_words": 3, "relation": "at least"}
FEW_WORDS = {"num_words": 3, "relation": "less than"}
CASES = {
    "change_case:english_lowercase": ({}, ["all small.", "a 1 b"], ["Not all small", "123", "слово"]),
    "change_case:english_capital": ({}, ["LOUD!", "A1"], ["LOUd", "123", "СЛОВО"]),
    "language:response_language": (
        {"language": "de"},
        ["Das ist ein kurzer Text auf Deutsch.", "123"],
        ["This is a short text in English.", "Это короткий текст."],
    ),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["THIS is BIG", "I AM", "DON'T"],
        ["THIS is big", "none"],
    ),
    "length_constraints:number_words": (WORDS, ["one two three", "a-b c"], ["one two", "it."]),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "less than"},
        ["Only one.", "Dr. No is here", "3.14 is pi."],
        ["One. Two.", "Really? Yes!"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a\n\nb", "a\n***\n***\nb", "a***b***c"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hello"},
        ["a\n\nHello, you", "a\n\n\"Hello\" b"],
        ["hello\n\nb", "a\n\nhello\n\nc", "a hello", "a\n\nhellos"],
    ),
    "keywords:existence": ({"keywords": ["sea", "Fish"]}, ["the SEA has fishes"], ["the sea", "C"]),
    "keywords:forbidden_words": ({"forbidden_words": ["sea", "fish"]}, ["fishes swim overseas"], ["A FISH.", "sea"]),
    "keywords:frequency": ({"keyword": "war", "frequency": 2, "relation": "at least"}, ["war, award"], ["one war"]),
    "keywords:letter_frequency": (
        {"letter": "A", "let_frequency": 2, "let_relation": "less than"},
        ["a cut", "no"],
        ["Aa", "banana"],
    ),
    "startend:end_checker": ({"end_phrase": "The end."}, ["so: the end.", '"The END."'], ["the end", "The end. No"]),
    "startend:start_checker": ({"start_word": "Well"}, ["well, yes", '"Well" is', "WELL"], ["Wells", "Oh well", ""]),
    "startend:quotation": ({}, ['"all of it"', ' "a" and "b" '], ['"', 'no"', '"no']),
    "punctuation:no_comma": ({}, ["a; b"], ["a, b"]),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "\n\n* a\n- b\n\n"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "1. a\n2. b"],
    ),
    "detectable_format:title": ({}, ["<<A title>>\ntext"], ["<A>", "<<>>", "<< >>", "<<a\nb>>"]),
    "detectable_format:json_format": ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "3"], ["{a: 1}", "a", "{" * 9999]),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3"],
        ["Section 1", "section 1 section 2", "Section A Section B"],
    ),
    "detectable_format:constrained_response": ({}, ["Hm. My answer is maybe."], ["yes.", "My answer is yes"]),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and *b*", "**a**, **b**"],
        ["*a*", "* a\n* b", "**** **"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[a] [b]", "[] []"], ["[a]", "[a\nb] [c]"]),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, ["x\nP.S. y", "p. s. y"], ["PS y", "P.P.S"]),
    "combination:two_responses": ({}, ["a\n******\nb", "******a******b"], ["a******a", "a", "a******b******c"]),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Write A poem"}, ["write a poem\nRoses"], ["Roses", "A poem"]),
}  # fmt: skip


def make_problem(*rules):
    answer = {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in rules]}
    message = (Message("user", "q"),)
    return Problem(id="p", source="s", kind="instruction", messages=message, verifier="instructions", answer=answer)


def test_every_kind_has_cases():
    assert CASES.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_followed_and_broken(name):
    kwargs, followed, broken = CASES[name]
    for text in followed:
        assert CHECKS[name](text, kwargs), text
    for text in broken:
        assert not CHECKS[name](text, kwargs), text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("One", 1), ("One. Two! Three?", 3), ("Mr. Smith met Dr. Who.", 1), ("J. R. Smith is here.", 1),
        ("Really?! Yes.", 2), ('He said "no." She left.', 2), ("It costs 3.50 dollars. Fine.", 2),
        ("Go to example.com now.", 1), ("First line\nsecond line.", 1), ("Wait... what?", 1), ("e.g. this one.", 2),
        ("Wait... The end.", 2), ("in the U.S. It is", 2), ("the U.S. law.", 1), ("1. one\n2. Two", 2), ("A.) b", 2),
        ("It was I. Then it ended.", 2), ("Done. and more", 2), ("a ?(b?) c", 3), ("a ?(b) c", 2),
    ],
)  # fmt: skip
def test_sentences_are_counted(text, count):
    assert count_sentences(text) == count


PUNKT = {
    "abbrev_types.txt": "dr\netc",
    "sent_starters.txt": "the",
    "collocations.tab": "##number##\tstreet",
    "ortho_context.tab": "carpenter\t32\nsmith\t4\nstreet\t36\nran\t48",
}
"""NLTK's form; the bits: 4 upper case in the middle, 16 lower case at the beginning, 32 lower case in the middle."""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Carpenter came.", 2), ("Dr. Smith came.", 1), ("Dr. The came.", 2), ("Dr. Jones came.", 1),
        ("J. Carpenter came.", 2), ("J. Smith came.", 1), ("J. Jones came.", 1), ("It is 5. Carpenter.", 2),
        ("It is 5. carpenter.", 1), ("It is 5. ran.", 2), ("It is 5. Street.", 1), ("It is 5. Smith.", 2),
        ("One... Carpenter.", 2), ("One... Smith.", 1), ("A cat. A dog.", 2), ("", 0),
    ],
)  # fmt: skip
def test_sentences_are_counted_by_nltks_statistics_where_they_are_given(tmp_path, text, count):
    for name, content in PUNKT.items():
        (tmp_path / name).write_text(content)
    assert count_sentences(text, read_punkt(str(tmp_path))) == count
    problem = make_problem(
        ("length_constraints:number_sentences", {"num_sentences": count + 1, "relation": "less than"}),
        ("length_constraints:number_sentences", {"num_sentences": count, "relation": "at least"}),
    )
    if text and count > 1:
        verifier = get_verifier("instructions", protocol="ifeval", punkt=str(tmp_path), num_workers=1)
        assert verifier(problem, f"Hm.\n</think>\n\n{text}").status == "correct"


def test_a_folder_without_nltks_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="sentence model"):
        get_verifier("instructions", protocol="ifeval", punkt=str(tmp_path))


def test_words_and_capital_tokens_are_counted():
    assert count_words("It's a well-known, 3-word phrase_x.") == 8
    assert count_capital_tokens("I DON'T KNOW: A-B, U.S. (NASA) aB 3D 42") == 8


def test_all_instructions_must_hold_and_each_is_reported():
    problem = make_problem(("change_case:english_lowercase", {}), ("punctuation:no_comma", {}))
    assert STRICT(problem, "Hm, A</think>\n\nthe sea is deep.").status == "correct"
    verdict = STRICT(problem, "</think>\n\nthe sea, deep")
    assert (verdict.status, verdict.score) == ("wrong", 0.0)
    assert [rule["followed"] for rule in verdict.details["instructions"]] == [True, False]
    assert get_verifier("instructions", partial=True)(problem, "</think>the sea, deep").score == 0.5


def test_strict_needs_closed_thinking_and_an_answer():
    problem = make_problem(("punctuation:no_comma", {}))
    assert STRICT(problem, "the sea").reason == "thinking not closed"
    assert STRICT(problem, "the sea</think> \n").reason == "empty answer"
    free = get_verifier("instructions", format_free=True)
    assert free(problem, "the sea").status == "correct"
    assert free(problem, "a, b</think>the sea").status == "correct"


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    problem = make_problem(("startend:quotation", {}))
    text = '</think>Here it is:\n*"quoted"*'
    assert STRICT(problem, text).status == "wrong"
    assert get_verifier("instructions", loose=True)(problem, text).status == "correct"


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, {"instructions": []}, {"instructions": ["x"]}, {"instructions": [{"id": "no:such", "kwargs": {}}]},
        {"instructions": [{"id": "language:response_language", "kwargs": {"language": 5}}]},
        {"instructions": [{"id": "length_constraints:number_words", "kwargs": {"num_words": 3}}]},
        {"instructions": [{"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": "3"}}]},
        {"instructions": [{"id": "length_constraints:number_words", "kwargs": {"num_words": 3, "relation": "about"}}]},
    ],
)  # fmt: skip
def test_unreadable_instructions_are_unjudged(answer):
    message = (Message("user", "q"),)
    problem = Problem(id="p", source="s", kind="i", messages=message, verifier="instructions", answer=answer)
    assert STRICT(problem, "</think>text").status == "unjudged"


def test_unknown_instruction_is_a_user_error_at_admission():
    require_supported(list(CHECKS))
    with pytest.raises(UserError) as error:
        require_supported(["startend:end_check"])
    assert "startend:end_checker" in error.value.hint


@pytest.mark.parametrize(
    "unit", ["[", "<<", "*", "* ", "\n", " ", "a", ".", "p.", "***", '"', "Section ", "(", "- \n", "'"]
)
def test_degenerate_text_is_judged_in_linear_time(unit):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for name, (kwargs, _, _) in CASES.items():
        CHECKS[name](text, kwargs)
    assert time.process_time() - start < 10  # quadratic scans take minutes


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_nothing_raises_on_arbitrary_text(text):
    for verifier in (STRICT, get_verifier("instructions", loose=True, format_free=True)):
        for name, (kwargs, _, _) in CASES.items():
            assert verifier(make_problem((name, kwargs)), f"</think>{text}").status in ("correct", "wrong")


def ifeval_rows():
    path = DATA / "ifeval_official" / "input_data.jsonl"
    if not path.exists():
        pytest.skip("needs the developers' data set ifeval_official")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ifeval_prompts_are_all_readable():
    for row in ifeval_rows():
        rules = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
        for name, kwargs in rules:
            assert CHECKS[name]("My answer is yes.", kwargs) in (True, False), (row["key"], name)


OFFICIAL = get_verifier("instructions", protocol="ifeval", num_workers=1)


def test_official_protocol_judges_unfinished_thoughts_and_asks_for_english():
    lowercase = make_problem(("change_case:english_lowercase", {}))
    german = make_problem(("language:response_language", {"language": "de"}))
    english_text = "this is a plain english sentence about the weather in the north."
    german_text = "das ist ein ganz normaler satz auf deutsch, und er ist nicht kurz."
    pairs = [
        (lowercase, english_text), (lowercase, german_text), (lowercase, f"LOUD\n</think>\n\n{english_text}"),
        (german, german_text), (german, english_text), (german, "x\n</think>\n\n \n"),
        (make_problem(("no:such", {})), english_text),
    ]  # fmt: skip
    expected = ["correct", "wrong", "correct", "correct", "wrong", "wrong", "unjudged"]
    assert [verdict.status for verdict in OFFICIAL.verify_many(pairs)] == expected
    assert [verdict.status for verdict in OFFICIAL.verify_many(pairs)] == expected  # the detector draws, seeded


def test_strict_protocol_takes_german_lowercase_but_detects_a_demanded_language():
    text = "</think>das ist ein ganz normaler satz auf deutsch, und er ist nicht kurz."
    assert STRICT(make_problem(("change_case:english_lowercase", {})), text).status == "correct"
    assert STRICT(make_problem(("language:response_language", {"language": "de"})), text).status == "correct"


def test_unknown_protocol_is_a_user_error():
    with pytest.raises(UserError, match="protocol"):
        get_verifier("instructions", protocol="loose")
