"""Pretraining texts: the generated corpus tells the truth and no held-out text, files are streamed by position."""

import json
import re
from itertools import islice

import pytest

from openqwq.config import SourceConfig
from openqwq.data import build_documents, build_sources, held_out, problem_texts
from openqwq.data.chains.facts import LEGS
from openqwq.data.corpus import DOCUMENT_SHARES, CorpusSource
from openqwq.errors import UserError

CONFIGS = {
    "chain_sum": SourceConfig(type="reasoning_gym", config={"min_terms": 2, "max_terms": 2, "max_digits": 1}),
    "gcd": SourceConfig(type="reasoning_gym", config={"min_value": 2, "max_value": 9}, prompt_suffix=" Box it."),
    "python": SourceConfig(type="python_functions", prompt_suffix=" Fence it."),
    "words": SourceConfig(type="instructions", config={"min_rules": 1, "max_rules": 2}),
    "corpus": SourceConfig(type="corpus", config={"statements": ["chain_sum", "gcd"]}),
}
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "\\boxed", "```")


def corpus(exclude=frozenset(), **config):
    options = {**CONFIGS["corpus"].config, **config}
    return CorpusSource("corpus", SourceConfig(type="corpus", config=options), build_sources(CONFIGS), exclude)


def documents(count, **kw):
    return [corpus(**kw).document(0, index) for index in range(count)]


def only(sort):
    return {name: float(name == sort) for name in DOCUMENT_SHARES}


def test_documents_hold_no_chat_format():
    text = "\n".join(documents(1500))
    assert not [token for token in CHAT_TOKENS if token in text]


def test_documents_hold_no_held_out_text():
    """Neither as a statement nor as the words above a program or an obeying text; without the suffix neither."""
    sources = build_sources(CONFIGS)
    unseen = problem_texts([problem for source in sources.values() for problem in held_out(source, 40)])
    bare = {text.removesuffix(" Box it.").removesuffix(" Fence it.") for text in unseen}
    lines = {line.removeprefix("# ") for text in documents(2500, exclude=unseen) for line in text.split("\n")}
    assert len(lines) > 10_000
    assert not bare & lines
    seen_without_exclusion = {line.removeprefix("# ") for text in documents(2500) for line in text.split("\n")}
    assert len(bare & seen_without_exclusion) > 10


FACT = re.compile(r"(?<![\d-])(-?\d+)([-+*/%])(-?\d+)=(-?\d+)(?!\d)")


def test_every_sum_in_the_corpus_is_true():
    facts = [match.groups() for text in documents(1500) for match in FACT.finditer(text)]
    assert len(facts) > 3000
    assert {operator for _, operator, _, _ in facts} == set("+-*/%")
    for a, operator, b, result in facts:
        a, b, result = int(a), int(b), int(result)
        if operator == "/":
            assert result * b == a
        else:
            assert result == {"+": a + b, "-": a - b, "*": a * b, "%": a % b if b else None}[operator], (a, operator, b)


def test_every_line_of_facts_ends_in_a_fact_or_is_a_count():
    text = "\n".join(documents(200, shares=only("arithmetic")))
    for line in filter(None, text.split("\n")):
        if re.fullmatch(r"\d+( \d+)+", line):
            first, second, *_ = numbers = [int(number) for number in line.split()]
            assert numbers == [first + i * (second - first) for i in range(12)]
        elif parts := re.fullmatch(r"(\d+)=(\d*0)\+(\d)", line):
            whole, tens, ones = map(int, parts.groups())
            assert whole == tens + ones
        else:
            assert line.endswith(list(FACT.finditer(line))[-1].group()), line


def test_animals_have_the_legs_that_the_problems_count():
    text = "\n".join(documents(200, shares=only("animals")))
    told = set(re.findall(r"^A (.+) has (\d+) legs\.$", text, re.MULTILINE))
    assert told == {(animal, str(legs)) for animal, legs in LEGS.items()}


def test_programs_in_the_corpus_give_what_it_says():
    text = "\n".join(documents(150, shares=only("programs")))
    runs = re.findall(r"^(def f\(xs\):\n    return .+)\n(f\(\[.*\]\) == .+)$", text, re.MULTILINE)
    assert len(runs) > 100
    for code, claim in runs:
        names: dict = {}
        exec(f"{code}\nholds = {claim}", names)
        assert names["holds"], (code, claim)


def test_a_document_is_a_function_of_seed_and_position():
    stream = build_documents(CONFIGS, {"corpus": 1.0}, build_sources(CONFIGS), seed=3)
    first = list(islice(stream, 30))
    later = build_documents(CONFIGS, {"corpus": 1.0}, build_sources(CONFIGS), seed=3, start=20)
    assert first[20:] == list(islice(later, 10))
    other = build_documents(CONFIGS, {"corpus": 1.0}, build_sources(CONFIGS), seed=4)
    assert first != list(islice(other, 30))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"share": {}}, "unknown key `share`"),
        ({"shares": {"arithmetics": 1}}, "unknown `arithmetics`"),
        ({"statements": ["chains"]}, "unknown `chains`"),
        ({"statements": ["python"]}, "`python`, whose problems have no answer in words"),
    ],
)
def test_a_wrong_corpus_is_a_user_error(config, message):
    with pytest.raises(UserError, match=message):
        corpus(**config)


def test_a_corpus_whose_statements_are_all_held_out_is_a_user_error():
    source = build_sources(CONFIGS)["gcd"]
    every = problem_texts([source.problem("corpus", key) for key in range(3000)])
    assert len(every) == 64  # ordered pairs of 2 to 9
    with pytest.raises(UserError, match="cannot state problems of `gcd`"):
        documents(20, exclude=every, statements=["gcd"], shares=only("statements"))


def read(path, content, count, mix=None):
    path.write_bytes(content)
    config = {"text": SourceConfig(type="text", path=str(path))}
    return list(islice(build_documents(config, {"text": 1.0}, {}, seed=0), count))


def test_a_text_file_is_cut_at_blank_lines_and_read_round_and_round(tmp_path):
    content = "\n\none\nstill one\n \n\ntwo, naïve\n\n\nthree".encode()
    assert read(tmp_path / "t.txt", content, 5) == [
        "one\nstill one\n",
        "two, naïve\n",
        "three",
        *["one\nstill one\n", "two, naïve\n"],
    ]


def test_a_jsonl_file_gives_its_text_fields(tmp_path):
    rows = [{"text": "a\nb", "id": 1}, {"text": "c"}]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    assert read(tmp_path / "t.jsonl", content + b"\n\n", 3) == ["a\nb", "c", "a\nb"]


@pytest.mark.parametrize("row", ["{", '{"txt": "a"}', '{"text": 5}', '["text"]', '"text"'])
def test_a_broken_row_is_named_by_its_place(tmp_path, row):
    with pytest.raises(UserError, match=r"t\.jsonl: the row at byte 14"):
        read(tmp_path / "t.jsonl", b'{"text": "a"}\n' + row.encode() + b"\n", 2)


def test_an_empty_or_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no document"):
        read(tmp_path / "t.txt", b"\n \n", 1)
    config = {"text": SourceConfig(type="text", path=str(tmp_path / "none.txt"))}
    with pytest.raises(UserError, match="no file at"):
        next(build_documents(config, {"text": 1.0}, {}, seed=0))


def test_problems_are_no_texts():
    with pytest.raises(UserError, match="pretraining reads texts"):
        next(build_documents(CONFIGS, {"gcd": 1.0}, {}, seed=0))
