import pytest

from openqwq.inference.stop_strings import find_stop, holds_stop


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        ("abcabc", ("c",), (2, "c")),
        ("abcabc", ("x", "ca", "bc"), (1, "bc")),
        ("abcabc", ("bca", "bc"), (1, "bca")),
        ("abc", ("x",), None),
        ("abc", (), None),
    ],
)
def test_the_earliest_stop_string_counts(text, stop, found):
    assert find_stop(text, stop) == found


def decode(ids):
    """A byte-level toy: token i < 256 is a byte, 300 is two bytes of text."""
    return b"".join(b"ab" if i == 300 else bytes([i]) for i in ids).decode(errors="replace")


def test_a_stop_string_is_found_in_the_token_that_completes_it():
    for text, stop in [("one STOP", "STOP"), ("x é", "é"), ("x 你", "你")]:
        ids = list(text.encode())
        found = [holds_stop(decode, ids[:end], (stop,)) for end in range(1, len(ids) + 1)]
        assert found == [False] * (len(ids) - 1) + [True]


def test_a_stop_string_may_end_or_begin_inside_a_token():
    assert holds_stop(decode, [*b"zzz", 300], ("za",))
    assert holds_stop(decode, [*b"zz", 300, *b"c"], ("bc",))
    assert not holds_stop(decode, [*b"zz", 300], ("bc",))
