"""Our judgements beside the official checkers' own, on random answers to their own prompts.

    python benchmarks/verifiers_official.py --data FOLDER [--qwq CHECKOUT --punkt FOLDER] [--gorilla CHECKOUT]

IFEval: the checker in QwQ's evaluation (a checkout of QwenLM/QwQ; it needs the packages `nltk`, `immutabledict` and
`absl-py`), with NLTK's sentence model in --punkt (nltk_data/tokenizers/punkt_tab/english); FOLDER/ifeval_official.
BFCL: the leaderboard's AST checker (a checkout of ShishirPatil/gorilla); FOLDER/bfcl_v3. A part whose checkout is not
named is left out. Exit code 1 when any judgement differs. Writes benchmarks/results/verifiers_official.json.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import random
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine

from openqwq.verifiers.instructions.official import official_checks
from openqwq.verifiers.instructions.sentences import read_punkt
from openqwq.verifiers.tool_call.rules import TaskError, find_mismatch

CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple")


def main() -> int:
    """Print how often the two agree, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--qwq", type=Path, help="a checkout of QwenLM/QwQ")
    parser.add_argument("--punkt", type=Path, help="NLTK's punkt_tab/english")
    parser.add_argument("--gorilla", type=Path, help="a checkout of ShishirPatil/gorilla")
    parser.add_argument("--answers", type=int, default=30, help="random answers to each prompt; default 30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "verifiers_official.json")
    args = parser.parse_args()
    if args.qwq and not args.punkt:
        parser.error("--qwq needs --punkt")
    found: dict[str, Any] = {}
    rng = random.Random(args.seed)
    if args.qwq:
        found["IFEval instructions"] = compare_ifeval(args, rng)
    if args.gorilla:
        found |= compare_bfcl(args, rng)
    print(f"{'':<28}{'both right':>12}{'both wrong':>12}{'differ':>8}")
    for name, row in found.items():
        print(f"{name:<28}{row['both right']:>12}{row['both wrong']:>12}{row['differ']:>8}")
    args.output.write_text(json.dumps(describe_machine() | {"seed": args.seed, "results": found}, indent=2) + "\n")
    return int(any(row["differ"] for row in found.values()))


def count(row: Counter[str], official: bool, ours: bool | str, what: Any) -> None:
    row["differ" if official != ours else "both right" if ours else "both wrong"] += 1
    if official != ours:
        print(f"  differ: official {official}, ours {ours}: {what!r:.300}", file=sys.stderr)


def compare_ifeval(args: argparse.Namespace, rng: random.Random) -> Counter[str]:
    """Each instruction of each prompt on random texts; the two prompts whose letter is drawn at random are left out."""
    registry = load_ifeval(args.qwq / "eval" / "eval", str(args.punkt))
    checks = official_checks(str(args.punkt))
    rows = read_lines(args.data / "ifeval_official" / "input_data.jsonl")
    texts = [row["prompt"] for row in rows] + list(plain_texts())
    agreement: Counter[str] = Counter({"both right": 0, "both wrong": 0, "differ": 0})
    for row in rows:
        for _ in range(args.answers):
            text = change_text(rng.choice(texts), row, rng)
            for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
                if kwargs.get("letter") in ("#", "!") or not text.strip():
                    continue
                instruction = registry.INSTRUCTION_DICT[name](name)
                instruction.build_description(**kwargs)
                if "prompt" in (instruction.get_instruction_args() or {}):
                    instruction.build_description(prompt=row["prompt"])
                official = bool(instruction.check_following(text))
                count(agreement, official, checks[name](text, kwargs), (name, kwargs, text))
    return agreement


def load_ifeval(folder: Path, punkt: str) -> Any:
    """The official registry, with NLTK's model from a folder rather than a download, and the detector's draw fixed."""
    import langdetect
    import nltk
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    langdetect.DetectorFactory.seed = 0
    model = read_punkt(punkt)
    parameters = PunktParameters()
    parameters.abbrev_types, parameters.sent_starters = set(model.abbreviations), set(model.starters)
    parameters.collocations = set(model.collocations)
    parameters.ortho_context.update(model.contexts)
    tokenizer = PunktSentenceTokenizer(parameters)
    nltk.data.load = lambda *_, **__: tokenizer
    nltk.tokenize.sent_tokenize = lambda text, *_, **__: tokenizer.tokenize(text)
    sys.path.insert(0, str(folder))
    return importlib.import_module("ifeval_utils.instructions_registry")


def plain_texts() -> Iterator[str]:
    """Prose and programs at hand: this project's documents and its own files."""
    for path in sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("openqwq/verifiers/*.py")]):
        text = path.read_text(encoding="utf-8")
        yield from (text[start : start + 1500] for start in range(0, len(text), 1500))


def change_text(text: str, row: dict[str, Any], rng: random.Random) -> str:
    """The text in another form, often with what the row's instructions ask for."""
    forms = (
        str.lower, str.upper, lambda t: f'"{t}"', lambda t: t.replace(",", ""), lambda t: f"{t[:70]}\n******\n{t}",
        lambda t: f"<<Title>>\n\n{t}\n\nP.S. bye\n\nP.P.S. bye",
        lambda t: f"* a\n- b\n{t} *hi* **there** [name] [place]",
        lambda t: '```json\n{"a": 1}\n```', lambda t: f"{row['prompt']}\n{t}", lambda t: t.replace("\n", "\n\n"),
        lambda t: t.replace(". ", ".\n\n***\n\n"), lambda t: t,
    )  # fmt: skip
    text = rng.choice(forms)(text)
    for name, value in ((n, v) for kwargs in row["kwargs"] for n, v in kwargs.items() if v is not None):
        if rng.random() < 0.5:
            continue
        if name in ("keywords", "forbidden_words"):
            text += " " + " ".join(value)
        elif name in ("keyword", "first_word", "end_phrase", "postscript_marker"):
            text += f"\n\n{value}"
        elif name == "prompt_to_repeat":
            text = f"{value}\n{text}"
        elif name == "section_spliter":
            text = "\n".join(f"{value} {i}\n{text[:80]}" for i in range(1, rng.randrange(2, 7)))
        elif name == "num_words":
            text = " ".join(text.split()[: value + rng.randrange(-3, 4)])
        elif name == "num_sentences":
            text = " ".join(text.split()[: value * rng.randrange(8, 20)])
    return text


def compare_bfcl(args: argparse.Namespace, rng: random.Random) -> dict[str, Counter[str]]:
    """Acceptable calls and changed ones of the Python categories."""
    checker, python = load_bfcl(args.gorilla / "berkeley-function-call-leaderboard")
    found = {}
    for category in CATEGORIES:
        agreement: Counter[str] = Counter({"both right": 0, "both wrong": 0, "differ": 0})
        folder = args.data / "bfcl_v3"
        functions = {row["id"]: row["function"] for row in read_lines(folder / f"BFCL_v3_{category}.json")}
        for row in read_lines(folder / "possible_answer" / f"BFCL_v3_{category}.json"):
            for i in range(args.answers):
                calls = [pick_call(call, rng) for call in row["ground_truth"]]
                for _ in range(rng.randrange(3) if i else 0):
                    change_calls(calls, functions[row["id"]], rng)
                official = checker(
                    functions[row["id"]],
                    [{n: copy.deepcopy(a)} for n, a in calls],
                    row["ground_truth"],
                    python,
                    category,
                    "-",
                )
                try:
                    ours: bool | str = not find_mismatch(
                        functions[row["id"]], row["ground_truth"], copy.deepcopy(calls)
                    )
                except TaskError as error:
                    ours = str(error)
                count(agreement, official["valid"], ours, (row["id"], calls))
        found[f"BFCL {category}"] = agreement
    return found


def load_bfcl(folder: Path) -> tuple[Any, Any]:
    """The official AST checker and its word for Python, without the leaderboard's list of models."""
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {"-": types.SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    sys.path.insert(0, str(folder))
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker").ast_checker
    return checker, importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON


def pick_call(call: dict[str, Any], rng: random.Random) -> tuple[str, dict[str, Any]]:
    """The call with one acceptable value for each argument; optional ones are left out now and then."""
    ((name, wanted),) = call.items()
    chosen = {argument: rng.choice(values) if values else None for argument, values in wanted.items()}
    return name, {a: pick_value(v, rng) for a, v in chosen.items() if v != "" or rng.random() < 0.3}


def pick_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list):
        return [pick_value(item, rng) for item in value]
    if isinstance(value, dict):
        return {key: rng.choice(v) if isinstance(v, list) and v else v for key, v in value.items()}
    return value


def change_calls(calls: list[tuple[str, dict[str, Any]]], functions: list[Any], rng: random.Random) -> None:
    """Spoil a call, or their number or order, in place; some changes keep them right."""
    if not calls:
        return
    i = rng.randrange(len(calls))
    name, arguments = calls[i]
    kind = rng.randrange(8)
    if kind == 0:
        calls[i] = (f"{name}x", arguments)
    elif kind == 1:
        arguments["extra"] = 1
    elif kind == 2:
        calls.append(copy.deepcopy(calls[i]))
    elif kind == 3:
        del calls[i]
    elif kind == 4:
        rng.shuffle(calls)
    elif kind == 5:
        calls[i] = (rng.choice(functions)["name"], arguments)
    elif arguments:
        argument = rng.choice(list(arguments))
        value = arguments.pop(argument)
        if kind == 6:
            arguments[argument] = change_value(value, rng)


def change_value(value: Any, rng: random.Random) -> Any:
    changes: list[Any] = [str(value), None, True, [value], {"a": value}, ""]
    if isinstance(value, int | float):
        changes += [value + 1, float(value), int(value)]
    if isinstance(value, str):
        changes += [value.upper(), value.replace(" ", "_") + "."]
    if isinstance(value, list):
        changes += [value[::-1], value + value[:1]]
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        changes.append({**value, key: change_value(value[key], rng)})
    return rng.choice(changes)


def read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
