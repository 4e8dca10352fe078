"""Short writing tasks with rules that a program can check, in IFEval's words, and texts that obey them.

`write_text` makes an obeying text from a small grammar; the corpus, the cold-start teacher and the
preference pairs use it. RL problems hold the rules only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem

TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "the sea": (("sea", "wave", "boat", "fish", "shore"), ("deep", "blue", "calm", "salty")),
    "the forest": (("forest", "tree", "leaf", "bird", "path"), ("green", "quiet", "tall", "old")),
    "the city": (("city", "street", "tower", "bus", "shop"), ("busy", "loud", "bright", "large")),
    "winter": (("snow", "ice", "wind", "coat", "night"), ("cold", "white", "long", "dark")),
    "summer": (("sun", "beach", "day", "garden", "sky"), ("warm", "bright", "long", "clear")),
    "a cat": (("cat", "paw", "tail", "mouse", "nap"), ("soft", "small", "quick", "lazy")),
    "a dog": (("dog", "bone", "ball", "walk", "friend"), ("happy", "loyal", "brown", "quick")),
    "food": (("bread", "soup", "apple", "table", "cook"), ("fresh", "sweet", "warm", "good")),
    "music": (("song", "drum", "voice", "dance", "band"), ("loud", "soft", "slow", "sweet")),
    "school": (("school", "book", "pen", "class", "child"), ("new", "bright", "busy", "quiet")),
    "the moon": (("moon", "star", "night", "light", "sky"), ("pale", "round", "silent", "bright")),
    "a river": (("river", "stone", "bridge", "water", "bank"), ("fast", "clear", "wide", "cold")),
}
"""Each topic with its nouns and its adjectives."""

ENDINGS = ("that is all.", "the end.", "good night.", "see you soon.")
STARTS = ("Well", "Today", "Look", "Often", "Here")


@dataclass(frozen=True)
class Rule:
    """One checkable rule: IFEval's instruction id, its arguments, and the sentence that asks for it."""

    id: str
    kwargs: dict[str, Any]
    sentence: str


def draw_rules(rng: Random, topic: str, count: int) -> list[Rule]:
    """`count` rules that do not contradict each other."""
    nouns, _ = TOPICS[topic]
    wanted, banned = rng.sample(nouns, 2)
    case = rng.choice(("lower", "upper"))
    words, start = rng.randint(5, 9), rng.choice(STARTS)
    ending, bullets = rng.choice(ENDINGS), rng.randint(2, 4)
    if banned in ending:
        ending = ENDINGS[0]
    relation = rng.choice(("at least", "less than"))
    shape = rng.choice(("bullets", "quotes", "title", "start", "end"))
    rules = {
        "case": Rule("change_case:english_lowercase", {}, "Use only lowercase letters.")
        if case == "lower"
        else Rule("change_case:english_capital", {}, "Use only capital letters."),
        "words": Rule(
            "length_constraints:number_words",
            {"relation": relation, "num_words": words},
            f"Use {relation} {words} words.",
        ),
        "wanted": Rule("keywords:existence", {"keywords": [wanted]}, f"Use the word {wanted}."),
        "banned": Rule("keywords:forbidden_words", {"forbidden_words": [banned]}, f"Do not use the word {banned}."),
        "comma": Rule("punctuation:no_comma", {}, "Do not use commas."),
        "shape": {
            "bullets": Rule(
                "detectable_format:number_bullet_lists", {"num_bullets": bullets}, f"Answer with {bullets} bullets."
            ),
            "quotes": Rule("startend:quotation", {}, "Put it all in double quotes."),
            "title": Rule("detectable_format:title", {}, "Give it a title in << >>."),
            "start": Rule("startend:start_checker", {"start_word": start}, f"Start with the word {start}."),
            "end": Rule("startend:end_checker", {"end_phrase": ending}, f"End with: {ending}"),
        }[shape],
    }
    return [rules[name] for name in rng.sample(list(rules), count)]


def instruction_prompt(topic: str, rules: Sequence[Rule]) -> str:
    """The task in words."""
    return " ".join([f"Write about {topic}.", *(rule.sentence for rule in rules)])


def write_text(topic: str, rules: Sequence[Rule], rng: Random) -> str:
    """A text about the topic that obeys all the rules (checked by the verifier in the tests)."""
    options = {rule.id: rule.kwargs for rule in rules}
    count = options.get("detectable_format:number_bullet_lists", {}).get("num_bullets", 0)
    words = options.get("length_constraints:number_words")
    sentences = _sentences(topic, options, rng, count, words)
    text = "\n".join(f"* {s}" for s in sentences) if count else ", ".join(sentences) + "."
    if "punctuation:no_comma" in options:
        text = text.replace(",", " and")
    if "startend:start_checker" in options:
        text = f"{options['startend:start_checker']['start_word']} {text}"
    else:
        text = text if count else text[0].upper() + text[1:]
    if "detectable_format:title" in options:
        text = f"<<{_title(topic, options)}>>\n{text}"
    if "startend:end_checker" in options:
        text = f"{text} {options['startend:end_checker']['end_phrase']}"
    if "startend:quotation" in options:
        text = f'"{text}"'
    if "change_case:english_lowercase" in options:
        text = text.lower()
    if "change_case:english_capital" in options:
        text = text.upper()
    return text


def _title(topic: str, options: dict[str, Any]) -> str:
    """The topic, or one of its nouns where the topic holds a forbidden word."""
    banned = options.get("keywords:forbidden_words", {}).get("forbidden_words", [])
    if not set(topic.split()) & set(banned):
        return topic
    return next(noun for noun in TOPICS[topic][0] if noun not in banned)


def _sentences(topic: str, options: dict[str, Any], rng: Random, bullets: int, words: dict | None) -> list[str]:
    """Clauses such as "the sea is deep": enough or few enough for the rules on words and bullets."""
    nouns, adjectives = TOPICS[topic]
    banned = options.get("keywords:forbidden_words", {}).get("forbidden_words", [])
    wanted = options.get("keywords:existence", {}).get("keywords", [])
    free = [n for n in nouns if n not in banned and n not in wanted]
    rng.shuffle(free)
    subjects = [*wanted, *free]
    limit = words["num_words"] if words else 0
    short = words is not None and words["relation"] == "less than"
    if bullets:
        clauses = [f"{rng.choice(adjectives)} {noun}" for noun in subjects[:bullets]]
        if limit and not short:
            clauses = [
                f"the {clause.split()[1]} is {clause.split()[0]} and {rng.choice(adjectives)}" for clause in clauses
            ]
        return list(subjects[:bullets]) if short else clauses
    if short:
        ending = options.get("startend:end_checker", {}).get("end_phrase", "")
        clause = f"{rng.choice(adjectives)} {subjects[0]}"
        return [clause if len(f"{clause} {ending}".split()) < limit else subjects[0]]
    clauses = [f"the {noun} is {rng.choice(adjectives)}" for noun in subjects[: rng.randint(2, 3)]]
    while 4 * len(clauses) < limit:
        clauses.append(f"the {subjects[len(clauses) % len(subjects)]} is {rng.choice(adjectives)}")
    return clauses


class InstructionSource:
    """Instruction problems; options: `min_rules`, `max_rules` (default 2 and 3)."""

    def __init__(self, name: str, config: SourceConfig):
        options = dict(config.config)
        self.name = name
        self.kind = config.kind or "instruction"
        self.verifier = config.verifier or "instructions"
        self.min_rules = options.pop("min_rules", 2)
        self.max_rules = options.pop("max_rules", 3)
        if options:
            raise UserError(
                f"source.{name}.config has the unknown key `{min(options)}`", hint="it takes `min_rules`, `max_rules`"
            )
        if not 1 <= self.min_rules <= self.max_rules <= 4:
            raise UserError(f"source.{name}.config: 1 <= min_rules <= max_rules <= 4 does not hold")

    def problem(self, split: str, key: int) -> Problem:
        """A topic and some rules."""
        rng = Random(key)
        topic = rng.choice(list(TOPICS))
        rules = draw_rules(rng, topic, rng.randint(self.min_rules, self.max_rules))
        return Problem(
            id=f"{self.name}/{split}/{key:x}",
            source=self.name,
            kind=self.kind,
            messages=(Message("user", instruction_prompt(topic, rules)),),
            verifier=self.verifier,
            answer={"instructions": [{"id": rule.id, "kwargs": rule.kwargs} for rule in rules]},
            metadata={"topic": topic, "rules": [rule.__dict__ for rule in rules]},
        )
