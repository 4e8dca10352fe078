"""More forms of maths answers, for each gold what must be accepted and what must be rejected."""

import pytest

from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.math.rules import same_answer

MATH = get_verifier("math", num_workers=1)


def assert_judged(gold, equal, other):
    problem = Problem(id="p", source="s", kind="math", messages=(Message("user", "q"),), verifier="math", answer=gold)
    wanted = dict.fromkeys(equal, "correct") | dict.fromkeys(other, "wrong")
    verdicts = MATH.verify_many([(problem, f"</think>The answer: $\\boxed{{{answer}}}$.") for answer in wanted])
    assert dict(zip(wanted, (verdict.status for verdict in verdicts), strict=True)) == wanted


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\left(36^\circ\right)", ["36"], []), (r"5\text{ m/s}", [r"5\text{ m/s east}"], []),
        (r"100\text{ km}", [], [r"100\text{ miles}"]), (r"4\text{ pounds}", [], [r"4\text{ kilograms}"]),
        (r"4\text{ lbs}", [r"4\text{ pounds}"], []), (r"350\text{ K}", [], [r"350^\circ\text{C}"]),
        (r"2\text{ A}", [], [r"2\text{ mA}"]), (r"2\text{ kW}", [r"2000\text{ W}"], []),
        (r"1.5\text{ kWh}", [], [r"1.5\text{ kW}"]),
        (r"60\text{ beats per minute}", ["60"], [r"60\text{ beats per second}"]),
        (r"3\text{ m}^3", [r"3\text{ cubic meters}"], [r"3\text{ liters}"]),
        (r"\$20\text{ per hour}", ["20"], []), ("25¢", ["25", r"\$0.25"], [r"\$25"]), ("€10", [], ["£10"]),
        (r"10\text{ euros}", ["€10"], []), ("10 euros", [], [r"\$10"]), (r"-\$5", ["-5"], []),
        (r"\$-5", ["-5"], []), (r"-\$5", [], [r"\$5"]),
        (r"5\text{ million}", ["5{,}000{,}000", r"5 \times 10^6"], [r"5\text{ billion}"]),
        (r"90\text{ degrees}", [r"90^\circ"], [r"90\text{ gradians}"]),
        (r"45\text{ minutes}", [], [r"45\text{ seconds}"]),
        (r"2\text{ days}", [r"48\text{ hours}"], [r"2\text{ weeks}"]),
        (r"1 \text{ hr } 20 \text{ min}", [], ["80", r"1\text{ hr }30\text{ min}"]),
        ("1 h 20 min", [r"80 \text{ min}"], []), (r"3\text{ yards }2\text{ feet}", [r"11\text{ feet}"], []),
        ("6'2''", [r"6\text{ feet }2\text{ inches}"], ["6'3''"]), (r"5\text{ N}", [], [r"5\text{ north}"]),
        (r"40^\circ\text{ N}", ["40"], []), (r"40^\circ N", [], [r"40^\circ S"]),
        (r"200\text{ feet above}", [], [r"200\text{ feet below}"]), (r"3\text{ boys}", [], [r"3\text{ girls}"]),
        (r"x\text{ dollars}", ["x"], []), (r"(x+2)\text{ cm}^2", ["x+2"], []),
        (r"\frac{\pi}{3}\text{ radians}", [r"\frac{\pi}{3}", r"60^\circ"], []),
        (r"\frac{\pi}{3}", [], [r"60^\circ"]), (r"12\text{ cm} \times 3", [], ["36"]),
        (r"5\,\mathrm{cm}", [], [r"5\,\mathrm{dm}"]), (r"8\,\Omega", ["8"], [r"8\text{ V}"]),
        (r"10\ \mu\text{m}", [], [r"10\text{ m}"]),
    ],
)  # fmt: skip
def test_units_and_what_is_counted_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\frac{1}{10^{9}}", ["10^{-9}"], []), ("0.000001", ["10^{-6}"], ["0.0000011"]),
        ("1-10^{-15}", [], ["1"]), (r"\frac{1}{3^{40}}", [], ["3^{-41}"]),
        (r"\frac{2^{100}-1}{2^{100}}", [], ["1"]), ("(0.5)^{60}", ["2^{-60}"], ["2^{-61}"]),
        (r"9.11\times10^{-31}", [], [r"9.11\times10^{-30}"]),
        (r"9.11\times10^{-31}\text{ kg}", [r"9.11\times10^{-31}"], []),
        (r"6.626 \times 10^{-34}", ["6.626E-34"], []), ("10^{-8}", [], ["0"]),
        (r"\frac{1}{\binom{100}{50}}", [], [r"\frac{1}{\binom{100}{51}}"]),
        (r"\sqrt{10^{-20}}", ["10^{-10}"], []),
    ],
)  # fmt: skip
def test_exact_size_of_tiny_numbers_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"5:30\text{ PM}", ["17:30"], [r"5:30\text{ AM}"]), (r"6\text{ o'clock}", ["6"], []),
        ("4:30", [], ["4.5"]), ("10:15", ["10{:}15"], ["10:51"]), ("00:30", [r"12:30\text{ a.m.}"], []),
        ("5:12", [], ["5:21"]),
    ],
)  # fmt: skip
def test_clock_times_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("3:4:5", ["6:8:10"], ["5:4:3"]), ("2:3", [r"\frac{2}{3}", r"2 \text{ : } 3"], ["2:4"]),
        ("a:b", ["2a:2b"], ["b:a"]), (r"1:\sqrt{3}", [r"\sqrt{3}:3"], []), ("5:1", ["5"], []),
        (r"5 \text{ to } 1", ["5:1"], []),
    ],
)  # fmt: skip
def test_ratios_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\mathrm{e}^{x}", ["e^x"], ["e^{-x}"]), (r"2\pi\mathrm{i}", [r"2\pi i"], []),
        (r"\mathrm{cosh}\,1", [r"\cosh 1"], []), (r"\ln 8", [r"3\ln 2"], []), (r"\log_3 9", ["2"], []),
        ("1i", ["i"], []), ("-1i", ["-i"], []), ("5-2i", [r"5-2\,\mathrm{i}"], ["5+2i"]),
        (r"\operatorname{arctan}(2)", [r"\tan^{-1}(2)"], []),
    ],
)  # fmt: skip
def test_letters_and_functions_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("4 3/8", ["4.375", r"\frac{35}{8}"], [r"4\frac{5}{8}"]), ("-1 1/2", ["-1.5"], ["-0.5"]),
        (r"1 1/2\text{ hours}", ["1.5", r"90\text{ minutes}"], []), ("1½", ["1.5"], []),
        (r"5 \frac{1}{2}", [r"\frac{11}{2}"], []),
    ],
)  # fmt: skip
def test_mixed_numbers_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"37½\%", [r"37.5\%"], []), (r"37\frac12\%", ["37.5"], []), (r"\frac{1}{3}\%", [], [r"0.333\%"]),
        (r"16\frac{2}{3}\%", [r"\frac{50}{3}\%"], [r"16.67\%", r"\frac{1}{6}"]), (r"100\%", [], ["1"]),
        (r"25\%", [r"25\text{ percent}"], []), (r"x\%", ["x"], []),
    ],
)  # fmt: skip
def test_percentages_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("42", [r"\textcolor{red}{\boldsymbol{42}}", r"\text{\bf 42}", r"\mathbf{\color{red}{42}}",
         r"\normalsize 42", r"\LARGE{\textbf{42}}", r"\hphantom{x}42", r"\;42\;", r"\hskip 1em 42", "***42***",
         "== 42", r"\: 42", r"\text{ 42 }", r"\emph{42}", r"\mathsf{42}", r"{\color{blue} 42}", r"\color{blue}42",
         r"\textcolor[HTML]{FF0000}{42}", r"\mathbf{4}2", r"\underline{4}2"], [r"\mathring{42}", r"\cancel{42}"]),
        (r"\sqrt{2}", [r"\bm{\sqrt{2}}"], []), ("y=3x", [r"\mathbf{y=3x}"], []),
        (r"\pi", [r"\boldsymbol{\pi}"], []),
    ],
)  # fmt: skip
def test_fonts_colours_and_blanks_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"2\sqrt{3}", ["2√3"], []), ("x^{10}", ["x¹⁰"], []), ("x^{-1}", ["x⁻¹"], []),
        (r"\frac{5}{8}", ["⅝"], []), (r"\le 5", ["≤5"], []), (r"x\le5", ["x ≤ 5"], []), ("30", ["３０"], []),
        ("(3,4)", ["（3, 4）"], []), (r"\frac{1}{2}", ["１／２"], []), (r"120^\circ", ["120˚"], []),
        (r"\theta", ["θ"], []), (r"\{x|x>0\}", ["(0,∞)"], []), (r"-\frac{1}{2}", ["−½"], []),
        (r"2\times3^4", ["2×3⁴"], []), (r"x\cdot y", ["x⋅y"], []),
    ],
)  # fmt: skip
def test_unicode_signs_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("5", [r'"5"'], []), ("-3", ["(- 3)", "-(3)", "- (3)"], ["-(-3)"]), ("3", ["-(-3)"], []),
        ("7", ["[7]", "(7.00)", "+ 7", "7."], []), (r"-\frac{2}{3}", ["(-2)/3", "-(2)/(3)"], [r"\frac{-2}{-3}"]),
    ],
)  # fmt: skip
def test_signs_brackets_and_blanks_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("10000", ["10 000", "10,000", r"10\,000"], ["10.000"]), ("3.5", [], ["3,5"]),
        ("1234.5", ["1 234.5"], []), (r"0.1\overline{36}", [r"0.1\dot{3}\dot{6}"], [r"0.\overline{136}"]),
        (r"1.\overline{3}", ["4/3"], ["1.3"]), (r"0.\overline{6}", [r"\frac{2}{3}"], []),
        (r"-0.\overline{3}", [r"-\frac13"], []), (r"\frac{1}{7}", [r"0.\overline{142857}"], ["0.142857"]),
        (r"0.1666\ldots", [r"\frac16"], []), (r"\frac{1}{3}", ["0.3333..."], []),
    ],
)  # fmt: skip
def test_decimals_with_bars_dots_and_commas_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\text{Saturday}", [r"\textbf{Saturday}", r"\text{`Saturday'}", r'"Saturday"'], [r"\text{Sunday.}"]),
        (r"\text{true}", [r"\text{True}"], [r"\text{false}"]), (r"\text{red}", ["red"], []),
        (r"\text{January 1}", [], [r"\text{January 11}"]),
    ],
)  # fmt: skip
def test_words_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("E", [r"\text{(E)}\ 5", r"\textbf{(E)}~\text{none of these}", r"(E) \text{cannot be determined}", "E)",
         "(E).", r"\boxed{E}", r"\text{E) 12}", "[E]", r"\mathbf{E}", r"\text{The answer is E}"], [r"(D)\ E",
         "D. E", "A, B, C, D, E", "E or A", "not E"]),
        (r"\text{(A)}\ 3", ["A", "3"], ["B"]),
    ],
)  # fmt: skip
def test_option_letters_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("(-1,1)", ["]-1;1[", "-1<x<1", r"x\in(-1,1)", r"\{x\in\mathbb{R}:|x|<1\}", r"x>-1\text{ and }x<1"],
         [r"-1\le x\le1", "[-1,1]"]),
        (r"[0,\infty)", [r"x\ge0", r"[0,+\infty)", r"[0,\infty["], [r"(0,\infty)"]),
        (r"(-\infty,1)\cup(1,\infty)", [r"x\ne1", r"\mathbb{R}\backslash\{1\}", r"\{x\mid x\neq1\}",
         r"\{x\in\mathbb{R}\mid x\neq1\}", r"x<1\text{ or }x>1"], []),
        (r"(-\infty,-1]\cup[1,\infty)", [r"|x|\ge1"], []), ("|x|>2", [r"x<-2\text{ or }x>2"], []),
        ("|x-2|<3", ["(-1,5)"], []), (r"|2x-1|\le5", ["[-2,3]"], []), ("1<x<3", [r"x\in(1,3)"], ["1<y<3"]),
        ("x>5", ["5<x"], ["x<5"]), ("a<x<b", ["(a,b)"], []), ("0<x<1", [], ["0<x<2"]),
        (r"(0,1)\cup(1,2)", [r"(1,2)\cup(0,1)"], []), (r"(0,1]\cup[1,2)", ["(0,2)"], []), (r"\{1\}", ["1"], []),
        (r"\{1,2,3\}", [r"\{3,2,1\}"], [r"\{1,2\}"]),
    ],
)  # fmt: skip
def test_sets_of_reals_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        (r"\text{There are 12 students}", ["12"], []), ("The answer is 7.", ["7"], []), ("7 apples", ["7"], []),
        ("x = 7", ["7"], []), ("Total: 7", ["7"], []), (r"\text{Answer: }12", ["12"], []), ("A: 7", ["7"], []),
        ("1,2", [r"\{2,1\}", r"1\text{ and }2"], []), ("(1,2),(3,4)", ["(3,4),(1,2)"], ["(1,2)"]),
        (r"x=\pm3", ["3,-3"], []), (r"\pm 3", [r"\{-3,3\}"], []),
        (r"2\pm\sqrt{5}", [r"2+\sqrt{5},2-\sqrt{5}"], [r"2+\sqrt5"]),
        (r"\frac{\sqrt{3}}{2}", [r"\sin 60^\circ"], ["0.866"]), (r"\sum_{k=1}^{3}k", ["6"], []),
        ("6", [r"\sum_{k=1}^{3}k"], []), (r"x\equiv 3 \pmod 7", [r"x\equiv 3 \pmod{7}"], []), ("n!", ["n!"], []),
        ("2n+1", ["1+2n"], []), (r"\frac{n(n+1)}{2}", [r"\binom{n+1}{2}"], []),
        (r"\angle ABC = 40^\circ", ["40"], []), (r"\vec{v}=(1,2)", ["(1,2)"], []), (r"\text{None}", [], ["0"]),
        (r"\text{DNE}", [r"\text{DNE}"], []), (r"\text{undefined}", [r"\text{undefined}"], []),
        (r"-\infty", [], [r"\infty"]), ("0", [], [r"\emptyset"]), ("100", ["1e2"], []),
        (r"x\equiv 3 \pmod 7", [r"x\equiv 10 \pmod 7"], [r"x\equiv 4 \pmod 7", r"x\equiv 3 \pmod 8"]),
        (r"3\pmod 7", [r"x \equiv 3 \bmod 7"], []), (r"\text{red}", [], [r"\text{blue}"]),
        ("red", [r"\text{red}"], []), ("ab", [], [r"\text{ba}"]), ("Sum: 12", ["12"], []),
    ],
)  # fmt: skip
def test_labels_lists_and_formulas_are_judged_by_value(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize(
    ("gold", "equal", "other"),
    [
        ("-25_8", ["-25_{8}"], ["-25", "25_8", "-25_9"]), ("-25", ["-25.0"], ["-25_{11}", r"-25_8\text{ apples}"]),
        ("x = 25_8", ["25_8"], ["25", "x = 25"]), (r"\text{(C)}", ["C", "(C): 12"], ["(C), 12", "C, 12"]),
    ],
)  # fmt: skip
def test_base_is_never_dropped_and_a_list_picks_no_option(gold, equal, other):
    assert_judged(gold, equal, other)


@pytest.mark.parametrize("tail", ["", "x)"])
@pytest.mark.parametrize(
    "unit",
    ["A: ", "is ", "abc: ", "\\approx ", "\\$", "((", "(1,", "\\{x|", "\\frac{\\text{a} \\text{b} ", "\\equiv",
     "3\\mod ", "1*", "5^\\circ", "^-", "\\sin", "|",
     "5 cm ", "**", "`", "$", "\\pm ", "x=1,", "\\color{", "\\textbf{\\text{"],
)  # fmt: skip
def test_endless_forms_end_the_reading_and_raise_nothing(unit, tail):
    text = f"{unit * (3900 // len(unit))}{tail}"
    assert same_answer("5", text) is not True
    assert same_answer(text, "5") is not True
