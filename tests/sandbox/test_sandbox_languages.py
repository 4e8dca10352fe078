"""Programs in other languages: compiled and run in the jail, where this machine has a toolchain."""

import os
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.sandbox import Limits, Sandbox, languages
from openqwq.sandbox.languages import describe_languages, find_toolchains, main_class

LIMITS = Limits(wall_s=30, cpu_s=30)

SUMS = {
    "cpp": '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }',
    "javascript": "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number)\nconsole.log(a + b)",
    "java": "import java.util.Scanner;\nclass Other {}\npublic class Add { public static void main(String[] x) {\n"
    "Scanner s = new Scanner(System.in); System.out.println(s.nextInt() + s.nextInt()); } }",
    "rust": "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap();\n"
    'println!("{}", s.split_whitespace().map(|x| x.parse::<i64>().unwrap()).sum::<i64>()); }',
    "go": 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
}


def need(language):
    if language not in find_toolchains():
        pytest.skip(f"{language}: {languages._search(True)[1][language]}")


@pytest.fixture(scope="module")
def native():
    with Sandbox(workers=1) as made:
        yield made


@pytest.mark.parametrize("language", SUMS)
def test_program_in_each_language_is_judged_by_its_output(native, language):
    need(language)
    tests = [{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "4 4\n", "stdout": "9"}]
    result = native.judge(SUMS[language], "stdio", tests=tests, limits=LIMITS, language=language)
    assert [test.verdict for test in result.tests] == ["passed", "wrong_answer"], result


@pytest.mark.parametrize("language", SUMS)
def test_program_that_is_none_ends_as_a_runtime_error_with_what_was_said(native, language):
    need(language)
    result = native.run("class {", limits=LIMITS, language=language)
    assert result.status == "runtime_error"
    assert result.stderr


def test_program_that_does_not_compile_fails_every_test(native):
    need("cpp")
    tests = [{"stdin": "", "stdout": ""}] * 2
    judged = native.judge("class {", "stdio", tests=tests, limits=LIMITS, language="cpp")
    assert [test.verdict for test in judged.tests] == ["runtime_error"] * 2
    assert "does not compile: program.cpp:1" in judged.reason


CPP = {
    "loop": ("int main() { for (;;); }", {"timeout"}),
    "segfault": ("int main() { volatile int *p = 0; return *p; }", {"runtime_error"}),
    "memory": ("#include <vector>\nint main() { std::vector<int> v; for (;;) v.push_back(1); }", {"memory"}),
    "output": ('#include <cstdio>\nint main() { for (;;) puts("xxxxxxxxxxxxxxxxx"); }', {"output_limit"}),
    "fork_bomb": ("#include <unistd.h>\nint main() { for (;;) fork(); }", {"timeout", "memory"}),
    "kill_all": ("#include <signal.h>\nint main() { kill(-1, 9); return 3; }", {"runtime_error"}),
    "includes_a_device": ('#include "/dev/zero"\nint main() {}', {"runtime_error", "memory", "timeout"}),
    "endless_template": ("template <int N> struct A : A<N + 1> {};\nA<0> a;\nint main() {}", {"runtime_error"}),
    "large_binary": ("int a[200000000] = {1};\nint main() {}", {"runtime_error", "memory"}),
    "secret_of_the_host": ('#include "/etc/passwd"\nint main() {}', {"runtime_error"}),
}


@pytest.mark.parametrize("name", CPP)
def test_hostile_native_program_ends_with_its_status_and_the_next_one_runs(native, name):
    need("cpp")
    code, allowed = CPP[name]
    limits = Limits(wall_s=1, cpu_s=1, memory_mib=64, processes=16, output_bytes=100_000)
    assert native.run(code, limits=limits, language="cpp").status in allowed
    assert native.run(SUMS["cpp"], "1 2", LIMITS, language="cpp").stdout == "3"


def test_native_program_sees_its_own_processes_only(native):
    need("cpp")
    code = '#include <cstdio>\n#include <dirent.h>\nint main() { DIR *d = opendir("/proc");\n'
    code += "while (dirent *e = readdir(d)) if (e->d_name[0] != 46) puts(e->d_name); }"
    assert sorted(native.run(code, limits=LIMITS, language="cpp").stdout.split()) == ["1", "self", "thread-self"]


def test_files_lie_beside_the_program_and_its_compiler(native):
    need("cpp")
    code = '#include "a/b.h"\n#include <cstdio>\n'
    code += 'int main() { printf("%c%d", getc(fopen("c.txt", "r")), B); }'
    files = {"a/b.h": b"#define B 7\n", "c.txt": b"c"}
    assert native.run(code, limits=LIMITS, language="cpp", files=files).stdout == "c7"


def test_modes_but_stdio_are_for_python(native):
    need("cpp")
    result = native.judge("", "asserts", "f", ["assert f() == 1"], LIMITS, language="cpp")
    assert result.verdict == "infra_error"
    assert "Python only" in result.reason


def test_a_language_that_is_not_here_says_what_to_install(native, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    languages._search.cache_clear()
    try:
        assert find_toolchains() == {}
        assert describe_languages()["rust"] == "not found (package rustc)"
        with pytest.raises(UserError, match="package g\\+\\+"):
            native.run("", language="cpp")
        with pytest.raises(UserError, match="not one of python"):
            native.run("", language="cobol")
    finally:
        languages._search.cache_clear()


def test_a_toolchain_that_cannot_be_used_gives_way_to_the_next_on_the_path(tmp_path, monkeypatch):
    need("go")
    usable = os.path.dirname(find_toolchains()["go"].host)
    (tmp_path / "go").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{usable}")
    languages._search.cache_clear()
    try:
        assert find_toolchains()["go"].host == f"{usable}/go"
    finally:
        languages._search.cache_clear()


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts jails as another user")
def test_a_toolchain_that_only_root_may_read_is_not_used(tmp_path):
    hidden = tmp_path / "hidden" / "bin"
    hidden.mkdir(parents=True)
    (tmp_path / "hidden").chmod(0o700)
    with pytest.raises(languages._Unreadable):
        languages._show(str(hidden), "/toolchains/x")
    assert languages._show("/usr/bin/node", "/toolchains/x") == ("/usr/bin/node", ())
    assert not Path("/toolchains").exists()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("class A { } class B { public static void main(String[] a) { } }", "B"),
        ("class B { void main() {} } public final class A { }", "A"),
        ("interface I {}\nrecord R(int x) { public static void main(String... a) {} }", "R"),
        ("", "Main"),
    ],
)
def test_main_class_of_a_java_program(code, name):
    assert main_class(code) == name
