"""Keys go where the user allows it, and the floors of our dependencies exclude versions with known holes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from openqwq.data.chains.server_teacher import ServerTeacher
from openqwq.errors import UserError
from openqwq.key_hosts import KEY_HOSTS, check_key_host
from openqwq.sandbox.client import find_sandbox
from openqwq.verifiers import get_verifier

ROOT = Path(__file__).parents[2]

FIRST_SAFE = {
    "torch": "2.6",  # CVE-2025-32434: torch.load
    "jinja2": "3.1.6",  # CVE-2024-56201, CVE-2024-56326, CVE-2025-27516: out of the sandbox
    "starlette": "0.49.1",  # CVE-2024-47874, CVE-2025-54121, CVE-2025-62727: denial of service
    "h11": "0.16",  # CVE-2025-43859: request smuggling
    "pyarrow": "14.0.1",  # CVE-2023-47248: code from files
    "setuptools": "78.1.1",  # CVE-2024-6345, CVE-2025-47273: code and paths from packages
    "transformers": "4.53",  # CVE-2025-2099 and others: regular expressions
    "tokenizers": "0.20",
    "huggingface_hub": "0.20",
}
"""The first version without a known hole, by package."""


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    named = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(r for extra in extras for r in extra),
    ]
    return {r.name.lower(): r for r in map(Requirement, named) if r.name != "openqwq"}


@pytest.mark.parametrize("name", FIRST_SAFE)
def test_no_allowed_version_has_a_known_hole(name):
    requirement = requirements()[name]
    floors = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    assert floors and max(floors) >= Version(FIRST_SAFE[name]), str(requirement)


def test_every_dependency_has_a_floor():
    assert not [str(r) for r in requirements().values() if not re.search(r">=|==", str(r.specifier))]


@pytest.mark.parametrize(
    ("url", "allowed", "good"),
    [
        ("http://127.0.0.1:8000/v1", "", True),
        ("http://localhost", "", True),
        ("http://[::1]:9/v1", "", True),
        ("https://api.example.com/v1", "", False),
        ("https://api.example.com/v1", "other.com, API.example.com", True),
        ("https://api.example.com:8443/v1", "api.example.com:8443", True),
        ("https://api.example.com:8444/v1", "api.example.com:8443", False),
        ("https://evil-api.example.com", "api.example.com", False),
        ("https://api.example.com.evil.org", "api.example.com", False),
        ("https://api.example.com@evil.org/v1", "api.example.com", False),
    ],
)
def test_a_key_goes_to_this_machine_and_to_allowed_hosts_only(monkeypatch, url, allowed, good):
    monkeypatch.setenv(KEY_HOSTS, allowed)
    if good:
        check_key_host(url, "the key")
        return
    with pytest.raises(UserError) as error:
        check_key_host(url, "the key")
    assert "not allowed" in error.value.message and f"export {KEY_HOSTS}=" in error.value.hint


def test_an_address_that_a_recipe_names_gets_no_key_unasked(monkeypatch):
    for name in ("JUDGE_KEY", "OPENQWQ_SANDBOX_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.delenv(KEY_HOSTS, raising=False)
    with pytest.raises(UserError, match=r"the key in `JUDGE_KEY` would be sent to judge\.example"):
        get_verifier("judge", url="https://judge.example/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(UserError, match=r"would be sent to lean\.example"):
        get_verifier("proof", lean_url="https://lean.example", lean_key_env="JUDGE_KEY")
    with pytest.raises(UserError, match=r"the token in `OPENQWQ_SANDBOX_TOKEN` would be sent to box\.example"):
        find_sandbox("https://box.example:8443")
    monkeypatch.setenv(KEY_HOSTS, "judge.example")
    get_verifier("judge", url="https://judge.example/v1", model="m", api_key_env="JUDGE_KEY")


def test_an_address_on_the_command_line_is_the_users_own(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "secret")
    monkeypatch.delenv(KEY_HOSTS, raising=False)
    assert ServerTeacher("https://teacher.example/v1", "m", samples=2, api_key_env="TEACHER_KEY").samples == 2
