"""How `math` reads answers, kind by kind: what must be accepted and what must be rejected for one gold."""

import json
from pathlib import Path

import pytest

from openqwq.data.curation.admission import Candidate, admit
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.answers import boxes_together, last_boxed
from openqwq.verifiers.math.spelling import spell

CASES = sorted((Path(__file__).parents[2].parent / "shared" / "cases").glob("*/math.jsonl"))
MATH = get_verifier("math", num_workers=1)


def make_problem(gold):
    return Problem(id="p", source="s", kind="math", messages=(Message("user", "q"),), verifier="math", answer=gold)


def judge_parts(pairs):
    return [v.status for v in MATH.verify_many([(make_problem(g), f"Hm.\n</think>\n\n{part}") for g, part in pairs])]


def assert_judged(gold, equal, other):
    statuses = judge_parts([(gold, f"So \\boxed{{{answer}}}.") for answer in (gold, *equal, *other)])
    assert dict(zip((gold, *equal), statuses, strict=False)) == dict.fromkeys((gold, *equal), "correct")
    assert dict(zip(other, statuses[1 + len(equal) :], strict=True)) == dict.fromkeys(other, "wrong")


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"60\text{ km/h}", [r"60\text{ kph}", "60 km/h"], [r"60\text{ km}"]), ("60", [r"60\text{ km/h}"], []),
        (r"5\text{ kg}", [], [r"5\text{ g}"]), (r"25\text{ J}", ["25"], [r"25\text{ W}", r"25\text{ N}"]),
        (r"25\text{ joules}", [r"25\text{ J}"], []),
        (r"9.8\text{ m/s}^2", [r"9.8\ \mathrm{m\,s^{-2}}", r"9.8 \frac{\text{m}}{\text{s}^2}"],
           [r"9.8\text{ m/s}"]),
        (r"72^\circ\text{F}", ["72", r"72^\circ F"], [r"72^\circ\text{C}"]),
        (r"20^\circ C", [], [r"20\text{ K}"]),
        (r"\$12.50", ["12.50", r"12.5\text{ dollars}", r"1250\text{ cents}"], [r"12.50\text{ cents}"]),
        (r"\pounds 5", [], [r"\$5"]), ("£5", ["5"], []), (r"75\text{ cents}", [r"\$0.75"], [r"\$75"]),
        (r"3\text{ hours}", [r"180\text{ minutes}"], [r"3\text{ minutes}"]),
        (r"1\text{ hour }15\text{ minutes}", [r"75\text{ minutes}", r"1\text{ h }15\text{ min}",
           r"1.25\text{ hours}"], [r"1\text{ hour}", "15"]),
        (r"1\text{ hour and }15\text{ minutes}", [], [r"1\text{ hour }20\text{ minutes}"]),
        (r"5\text{ ft }6\text{ in}", [r"66\text{ inches}"], []),
        (r"5\text{ lb }3\text{ oz}", [], [r"5\text{ lb }4\text{ oz}"]), (r"4\text{ thousand}", ["4000"], ["4"]),
        (r"2.5\text{ million}", ["2500000"], []), (r"2.5\text{ million dollars}", [r"\$2{,}500{,}000"], []),
        (r"12\text{ dozen}", ["144"], []),
        (r"45^\circ", ["45", r"\frac{\pi}{4}\text{ radians}"], [r"45\text{ rad}", "45''"]),
        (r"10\text{ km north}", [r"10\text{ km}"], [r"10\text{ km south}"]),
        (r"30^\circ\text{ W}", [], [r"30^\circ\text{ E}"]), (r"5\text{ wins}", [], [r"5\text{ losses}"]),
        (r"100\text{ BC}", [r"100\text{ BCE}", "100"], [r"100\text{ AD}"]),
        (r"\$50\text{ profit}", [], [r"\$50\text{ loss}"]),
        (r"6\text{ apples}", ["6", r"6\text{ apple}"], [r"6\text{ oranges}"]), ("6 apples", ["6"], []),
        (r"16\text{ GB}", ["16"], [r"16\text{ TB}"]), (r"3\text{ L}", [], [r"3\text{ mL}"]),
        (r"3\text{ liters}", [r"3\text{ L}"], []), (r"3\text{ L}", [r"3000\text{ mL}"], []),
        (r"7\text{ m}", ["7m"], [r"7\text{ mm}"]), (r"2x\text{ cm}", ["2x"], [r"2x\text{ m}"]),
        (r"(3+\sqrt2)\text{ cm}", [r"3+\sqrt2"], []), (r"12\text{ square meters}", [r"12\text{ m}^2"], []),
        (r"12\text{ m}^2", [], [r"12\text{ m}^3", r"12\text{ m}"]), (r"12\text{ units}", ["12"], []),
        (r"12\text{ square units}", ["12"], [r"12\text{ cubic units}"]),
    ],
)  # fmt: skip
def test_unit_is_left_out_but_never_exchanged(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("5~cm", ["5"], []), (r"5~\text{cm}", [], [r"5~\text{m}"]), ("3~", ["3"], []),
    ],
)  # fmt: skip
def test_tie_is_a_blank(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("10^{-12}", ["0.000000000001"], ["10^{-13}"]), (r"\frac{1}{2^{50}}", ["2^{-50}"], ["2^{-51}"]),
        (r"\frac{1}{2004!}", [r"\frac{1}{2004!}"], [r"\frac{1}{2005!}"]),
        (r"6.02\times10^{23}", ["6.02e23", r"6.02\cdot10^{23}"], [r"6.03\times10^{23}"]),
        ("10^{100}", [], ["10^{101}", "10^{100}+1"]), ("2^{1000}", [r"2^{999}\cdot 2"], []),
        ("e^{-50}", [], ["e^{-51}", "0"]), (r"\pi\times10^{-20}", [], [r"\pi\times10^{-21}"]),
        (r"\frac{\sqrt2}{10^{15}}", [], [r"\frac{\sqrt3}{10^{15}}"]), ("1.000000001", [], ["1"]),
    ],
)  # fmt: skip
def test_tiny_and_huge_numbers_are_compared_exactly(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("7:30", ["7:30", r"7:30\text{ p.m.}"], ["7:45"]), (r"7:30\text{ p.m.}", ["19:30", "7:30"], []),
        (r"12:00\text{ p.m.}", [], [r"12:00\text{ a.m.}"]), (r"9\text{ a.m.}", [r"9:00\text{ AM}", "9"], []),
        ("11:05", [], ["11:50"]), ("8:00", [], ["8:05", r"\frac{8}{3}"]),
    ],
)  # fmt: skip
def test_times_of_day_are_no_ratios(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("3:2", ["6:4", "3/2", r"3\text{ to }2", "3 to 2"], ["2:3"]), ("1:2:3", [], ["1:2:4"]),
        ("2:4:6", ["1:2:3"], []), (r"1:\sqrt2", [r"\sqrt2:2"], []), ("3:2", ["1.5"], []),
    ],
)  # fmt: skip
def test_ratios_are_equal_up_to_a_factor(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\ln 5", [r"\mathrm{ln}\,5"], [r"\log 5"]), (r"\log_2 5", [r"\frac{\ln 5}{\ln 2}"], []),
        (r"\log_{10} 7", [r"\log 7"], []), (r"\cos x", [r"\operatorname{cos}(x)"], [r"\sin x"]),
        (r"2\mathrm{e}^{3}", ["2e^3"], ["2e^{-3}"]), ("4-1i", ["4-i"], []), ("4-i", [], ["4+i"]),
        (r"2\mathrm{i}", ["2i"], []), (r"\tan^{-1} 2", [r"\arctan 2"], []), (r"\frac{1+i}{2}", ["0.5+0.5i"], []),
    ],
)  # fmt: skip
def test_upright_letters_and_functions_are_the_usual_ones(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("3 1/4", ["3.25", r"\frac{13}{4}"], ["3/4", r"\frac{31}{4}"]), (r"-3\frac{1}{4}", ["-3.25"], ["-2.75"]),
        ("-3 1/4", [r"-\frac{13}{4}"], []), ("3¼", ["3.25"], []),
        (r"2\frac{1}{2}\text{ cups}", [r"2.5\text{ cups}"], []), (r"2\frac{1}{2}", [], [r"\frac{2\cdot1}{2}"]),
        (r"2x\frac{1}{2}", ["x"], []),
    ],
)  # fmt: skip
def test_mixed_numbers_are_read(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"12.5\%", [r"12\frac{1}{2}\%", "12.5"], ["0.125"]), (r"\frac{1}{8}", [], [r"12.5\%"]),
        (r"66\frac23\%", [r"66.\overline{6}\%", r"\frac{200}{3}\%"], [r"66.6\%"]),
        (r"50\text{ percent}", [r"50\%"], []), ("50 percent", [r"50\%"], []), (r"0.5\%", [], ["0.005"]),
    ],
)  # fmt: skip
def test_percent_sign_is_a_unit(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("-5", ["(-5)", r"\left(-5\right)"], ["(5)"]), ("5", ["(5)", "((5))", "--5"], ["- 5"]),
        (r"\frac12", [r"\left(\frac{1}{2}\right)", "(1)/(2)"], []),
        (r"-\frac12", [r"\frac{-1}{2}", r"\frac{1}{-2}"], [r"\frac{1}{2}"]), ("12 345", ["12345"], []),
        ("12345", [r"12\,345"], []), ("1234567", ["1 234 567"], []), ("12345", [], ["12 346"]),
        ("1,234", ["1234"], []), ("1{,}234", ["1,234"], []), ("40", ["80/2"], ["20+20", r"8\times5"]),
    ],
)  # fmt: skip
def test_signs_brackets_and_groups_of_digits_are_read(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("73", [r"\mathbf{73}", r"\textcolor{blue}{\mathbf{73}}", r"\color[rgb]{1,0,0} 73",
           r"\colorbox{yellow}{73}", r"\underline{73}", r"\underline{\underline{73}}", "{73}",
           r"\displaystyle 73", r"\phantom{0}73", r"73\phantom{1}", r"\text{73}", "$73$", r"\(73\)", "*73*",
           "__73__", "`73`", r"\quad 73\quad", r"\!73", r"\vphantom{A}73", r"\boxed{73}", r"73 \text{ (exact)}",
           "= 73", "x = 73", r"\mathrm{73}", r"\textbf{\underline{73}}", r"\bf 73", r"{\bf 73}", r"\Huge{73}"],
           [r"\mathbf{74}", r"\tiny 74"]),
        (r"\frac{3}{4}", [r"\mathbf{\frac{3}{4}}", r"\color{red}{\frac{3}{4}}"], []),
        ("x^2", [r"\mathbf{x}^2"], []),
    ],
)  # fmt: skip
def test_typography_changes_no_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("√3", [r"\sqrt{3}"], []), (r"3\sqrt{5}", ["3√5", "3√(5)"], []), ("x^2+1", ["x²+1"], ["x³+1"]),
        (r"\infty", [], ["-∞"]), (r"\frac{1}{3}", ["⅓"], []), ("-4", ["−4", "–4"], []), ("45", ["４５"], []),
        ("[2,3]", ["［2，3］"], []), (r"6\cdot 7", ["6·7"], []), (r"\frac{\pi}{2}", ["π/2"], []),
        (r"\alpha+1", ["α+1"], []), (r"\{1,2\}", ["｛1，2｝"], []), (r"x\ge 2", ["x≥2"], []),
        (r"(0,1)\cup(2,3)", ["(0,1)∪(2,3)"], []), (r"90^\circ", ["90º"], []),
        (r"4\times 10^{-5}", ["4×10⁻⁵"], []), (r"2\pm\sqrt3", ["2±√3"], []), ("a_2", ["a₂"], ["a₃"]),
    ],
)  # fmt: skip
def test_unicode_is_read_as_latex(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"0.\overline{3}", [r"0.\bar{3}", "1/3", r"0.333\ldots"], ["0.3", "0.333"]),
        (r"0.\overline{12}", [r"0.\dot{1}\dot{2}"], []), (r"0.1\overline{6}", [r"\frac16"], []),
        (r"0.1\dot{6}", [r"\frac16"], []), (r"0.\dot{1}2\dot{3}", [r"\frac{123}{999}"], []),
        ("0.(3)", [r"\frac13"], []), (r"0.\overline{9}", ["1"], []),
        (r"0.\overline{36}", [], [r"0.\overline{63}", r"\sqrt{2}"]),
    ],
)  # fmt: skip
def test_repeating_decimals_are_exact(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\text{Tuesday}", [r"\text{Tuesday!}", r'\text{"Tuesday"}', "Tuesday", "tuesday."],
           [r"\text{Thursday}"]),
        (r"\text{odd}", [], [r"\text{even}"]), (r"\text{No}", [r"\text{no.}"], []),
        (r"\text{Ann and Bob}", [r"\text{Ann and Bob}"], [r"\text{Ann and Tom}"]),
        (r"\text{May 5}", [r"\text{May 5}"], [r"\text{May 6}", r"\text{June 5}"]),
    ],
)  # fmt: skip
def test_words_are_compared_as_words(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("B", ["(B)", r"\text{B}", "B) 7", r"\text{(B) }7", r"\textbf{(B) }\frac{3}{4}", r"\mathrm{(B)}\ 12",
           r"\text{B. }12", r"\text{Answer: B}", "Option B", "(B): 12", "b"], ["A", "(A) 12", "A and B", "B or C",
           "A, B", "(A) B", "B/C", r"\text{(B) or (C)}"]),
        ("(B) 12", ["B", "12"], ["13", "(C) 12"]),
    ],
)  # fmt: skip
def test_option_letter_may_come_with_its_text(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("[2,5)", [r"2\le x<5", r"\{x: 2\le x<5\}", r"\{x\in\mathbb{R} \mid 2\le x<5\}", r"x\in[2,5)",
           r"2 \leqslant x < 5", "[2;5)"], ["[2,5]", "]2,5[", "2<x<5"]),
        (r"(-\infty,0)\cup(0,\infty)", [r"x\ne0", r"\mathbb{R}\setminus\{0\}"], [r"x \neq 1"]),
        (r"\mathbb{R}\setminus\{1,2\}", [r"x\neq1\text{ and }x\neq2", r"x\neq1,2"], []),
        (r"\mathbb{R}", [r"(-\infty,\infty)", r"\text{all real numbers}"], []),
        ("(-2,2)", [r"\lvert x\rvert<2", r"\left|x\right|<2"], [r"\left|x\right|\le2"]),
        (r"(-\infty,-2)\cup(2,\infty)", [r"\left|x\right|>2", r"x<-2\text{ or }x>2"], []),
        ("(1,5)", [r"\left|x-3\right|<2"], []),
        (r"\emptyset", [r"\varnothing", r"\{\}", r"\text{no solution}"], [r"\{0\}"]),
        ("x>3", ["3<x", r"(3,\infty)"], [r"x\ge3", "x<3"]), ("(0,12.5)", ["0<x<12.5"], ["0<x<12"]),
        ("[-1,1]", [], [r"-1\le\sin x\le 1"]), (r"0<x\le\sqrt{2}", [r"(0,\sqrt2]"], []),
    ],
)  # fmt: skip
def test_sets_of_reals_are_equal_in_any_spelling(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("y=2x+1", ["2x+1", "y=1+2x", "y-2x=1"], ["y=2x"]), ("f(x)=x^2", ["x^2"], ["f(x)=x^3"]),
        ("x=1,y=2", ["y=2,x=1", "(1,2)"], ["x=2,y=1"]), (r"x=2\text{ or }x=3", [r"\{2,3\}"], ["x=2"]),
        ("(x,y)=(1,2)", ["(1,2)"], []),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"],
           [r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"]),
        ("(1,2,3)", ["1,2,3"], []), (r"\{1,2,3\}", ["3,2,1"], []), (r"\{1,2\}", [], ["(1,2)"]),
        ("(1,2)", [], ["(2,1)"]), (r"\frac{x+1}{x-1}", [r"\frac{-x-1}{1-x}"], []),
        (r"\sin^2 x", [r"1-\cos^2 x"], []), (r"\sqrt{x^2}", [], ["x"]),
        ("(x+1)^3", ["x^3+3x^2+3x+1"], ["x^3+3x^2+3x"]), (r"\binom{10}{3}", ["120"], []), ("5!", ["120"], []),
        (r"\sqrt[3]{8}", ["2"], []), (r"\frac{\sqrt6-\sqrt2}{4}", [r"\sin 15^\circ"], []),
        ("n(n+1)/2", [r"\frac{n^2+n}{2}"], []), ("1/2x", [r"\frac{x}{2}"], []), ("p - q", ["-q+p"], ["q-p"]),
        ("3R^2", [], ["3R^3"]), (r"\text{(1, 2)}", ["(1,2)"], []), ("1, 2, and 3", ["1,2,3"], []),
        ("1,234,567", ["1234567"], []), ("2^{10}", ["1024"], []), (r"\lfloor 3.7\rfloor", ["3"], []),
        ("100!", ["100!"], []), (r"\frac{a}{b}", ["a/b"], []), ("ab", ["ba"], []),
        ("2516_8", ["2516_{8}"], ["2517_8"]), ("1010_2", [], ["10"]), (r"\text{infinity}", [r"\infty"], []),
        ("sqrt(2)", [r"\sqrt2"], []), ("2*pi", [r"2\pi"], []), (r"5 \text{ or } 6", [], ["5"]),
        ("5", [], [r"5 \text{ or } 6"]), ("7", [], ["7, 8"]),
    ],
)  # fmt: skip
def test_equations_lists_and_formulas_are_compared_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "status", "answers"),
    [
        (r"\text{The answer is 7}", "correct", ["7"]), ("There are 7 apples", "correct", ["7", r"7\text{ apples}"]),
        ("There are 7 apples", "wrong", ["8"]), (r"The final answer is $\frac{1}{2}$", "correct", ["0.5"]),
        ("John has 7 apples and 3 pears", "unjudged", ["7", "3", r"\sqrt{2}", "John has 7 apples and 3 pears"]),
        (r"2x+\frac{", "unjudged", ["1", r"2x+\frac{", "x+1"]), (r"\frac{1}{0}", "unjudged", ["1", r"\sqrt{2}"]),
        (r"0.\overline{6}", "wrong", ["x+1", r"\text{banana}", "2^{10}", r"\foo"]),
        ("14:00", "wrong", ["x+1", r"\sqrt{2}", r"\frac{1}{7}+\frac{1}{9}", r"\foo"]),
    ],
)  # fmt: skip
def test_whether_a_gold_can_be_read_does_not_depend_on_the_answer(gold, status, answers):
    assert judge_parts([(gold, f"\\boxed{{{answer}}}") for answer in answers]) == [status] * len(answers)


@pytest.mark.parametrize("gold", ["John has 7 apples and 3 pears", r"2x+\frac{", r"\frac{1}{0}"])
def test_admission_tells_a_gold_that_cannot_be_read(gold):
    (decision,) = admit([Candidate(make_problem(gold))], {"math": MATH})
    assert not decision.admitted
    assert (decision.reason, decision.detail) == ("the reference answer cannot be judged", "unreadable gold answer")


@pytest.mark.parametrize(
    "gold", [r"60\text{ km/h}", "12:01", r"2 1/4", r"0.\dot{3}", "1:2:3", r"]0,1[", r"\text{May 5}"]
)
def test_admission_takes_golds_in_any_form_that_candidates_may_use(gold):
    (decision,) = admit([Candidate(make_problem(gold))], {"math": MATH})
    assert decision.admitted, decision


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\fbox{42}", "42"), (r"\[\fbox{$\frac{1}{2}$}\]", r"$\frac{1}{2}$"), (r"\boxed{1} \fbox{2}", "2"),
        (r"\fbox{1} \boxed{2}", "2"), (r"\boxed{42}. I used \boxed as asked.", "42"), (r"\boxed{42} `\boxed`", "42"),
        (r"\boxed{42} (in \boxed{} form)", "42"), (r"\boxed{42}, as \boxed{...}", "42"),
        (r"\boxed{42}, that is \boxed{\text{answer}}", "42"), (r"\boxed{42}, and not \boxed{your answer}", "42"),
        (r"\boxed{3} then \boxed{4", None), (r"\fbox{3} then \fbox{4", None), (r"\boxed{3} then \fbox", None),
        (r"\boxed{}", None), (r"in \boxed, so 42", None), (r"\boxedfoo{3}", None),
    ],
)  # fmt: skip
def test_last_box_with_content_counts_and_one_spoken_of_does_not(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"$x = \boxed{2}$ or $x = \boxed{3}$.", ["2", "3"]), (r"\boxed{2}. Checked again: \boxed{3}", ["3"]),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", ["1", "2", "3"]), ("none", []),
    ],
)  # fmt: skip
def test_boxes_side_by_side_are_found_together(text, contents):
    assert boxes_together(text) == contents


@pytest.mark.parametrize(
    ("gold", "part", "status"),
    [
        ("2,3", r"$x = \boxed{2}$ or $x = \boxed{3}$", "correct"), ("2,3", r"$\boxed{2}$. Or $\boxed{3}$", "wrong"),
        ("2,3", r"\boxed{2}, \boxed{3}, \boxed{4}", "wrong"), ("3", r"\boxed{2}, \boxed{3}", "correct"),
        ("2", r"\boxed{2}, \boxed{3}", "wrong"), ("2,3", r"\boxed{2}, thus \boxed{2, 3}", "correct"),
        ("(2,3)", r"$x=\boxed{2}$, $y=\boxed{3}$", "correct"), ("(3,2)", r"$x=\boxed{2}$, $y=\boxed{3}$", "wrong"),
    ],
)  # fmt: skip
def test_several_boxes_are_one_answer_where_the_gold_has_several_values(gold, part, status):
    assert judge_parts([(gold, part)]) == [status]


@pytest.mark.parametrize(
    "text",
    [
        r"\text{``even''}",
        r"0.\dot{1}2\dot{3}",
        r"\textbf{(C)}\ 12",
        "√12",
        r"\color{red}{x^2}",
        "5' 6\"",
        r"\$5",
        "12 345",
    ],
)
def test_spelling_twice_changes_nothing(text):
    assert spell(spell(text)) == spell(text)


@pytest.mark.parametrize("file", CASES or [None], ids=lambda file: file.parent.name if file else "none")
def test_answers_of_the_field_are_judged_as_expected(file):
    if file is None:
        pytest.skip("needs the developers' folder shared/cases")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["input"].get("verifier") == "math" and "gold" in row["input"]]
    parts = [row["input"].get("answer part") or f"\\boxed{{{row['input']['boxed answer']}}}" for row in rows]
    statuses = judge_parts([(row["input"]["gold"], part) for row, part in zip(rows, parts, strict=True)])
    assert [row for row, status in zip(rows, statuses, strict=True) if status not in row["expected"]] == []
