"""Globs against a naive matcher that tries everything."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunowner.core.rules.findings import BadValueError
from tunowner.core.rules.globs import compile_glob

TABLE = [
    ("a", ["a"], ["", "aa", "b", "A"]),
    ("a*", ["a", "ab", "abc"], ["", "ba", "a/b"]),
    ("*a", ["a", "ba"], ["ab", "b/a"]),
    ("?", ["a", "*", "\n"], ["", "/", "ab"]),
    ("a.c", ["a.c"], ["abc"]),
    ("**", ["", "a", "a/b", "/"], []),
    ("/**", ["/", "/a", "/a/b"], ["", "a"]),
    ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b"], ["/a/xb", "/ab", "/a/x/yb"]),
    ("**/b", ["b", "/b", "/a/b"], ["ab", "/ab"]),
    ("/a**b", ["/ab", "/a/b", "/axb"], ["/a"]),
    ("/a/*/c", ["/a/b/c", "/a//c"], ["/a/c", "/a/b/b/c"]),
    ("**a*b", ["a/ab", "aab"], ["a/b", "b"]),
    ("a***/b", ["a/b", "ax/y/b"], ["ab"]),
    ("[ab]", ["a", "b"], ["c", "ab", ""]),
    ("[!ab]", ["c"], ["a", "/", ""]),
    ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
    ("[a-]", ["a", "-"], ["b"]),
    ("[]]", ["]"], ["[", "[]]"]),
    ("[!]]", ["a"], ["]"]),
    ("[+-9]", ["0", "+"], ["/"]),
    ("[*]", ["*"], ["a"]),
    ("[a^]", ["a", "^"], ["b"]),
    ("[\\]", ["\\"], ["]"]),
]


@pytest.mark.parametrize(("glob", "fitting", "others"), TABLE)
def test_globs(glob: str, fitting: list[str], others: list[str]) -> None:
    pattern = compile_glob(glob)
    assert [text for text in fitting if not pattern.fullmatch(text)] == []
    assert [text for text in others if pattern.fullmatch(text)] == []


def naive(glob: str, text: str) -> bool:
    """Say the same as `compile_glob` by trying every length of every star. No classes but [!a]."""

    @cache
    def fits(at: int, pos: int) -> bool:
        if at == len(glob):
            return pos == len(text)
        rest = range(pos, len(text) + 1)
        if glob.startswith("**", at):
            end = at + len(glob[at:]) - len(glob[at:].lstrip("*"))
            if glob.startswith("/", end) and (at == 0 or glob[at - 1] == "/"):
                starts = [p for p in rest if p == pos or text[p - 1] == "/"]
                return any(fits(end + 1, p) for p in starts)
            return any(fits(end, p) for p in rest)
        if glob[at] == "*":
            return any(fits(at + 1, p) for p in rest if "/" not in text[pos:p])
        if pos == len(text):
            return False
        if glob[at] == "?":
            return text[pos] != "/" and fits(at + 1, pos + 1)
        if glob.startswith("[!a]", at):
            return text[pos] not in "a/" and fits(at + 4, pos + 1)
        return glob[at] == text[pos] and fits(at + 1, pos + 1)

    return fits(0, 0)


GLOBS = st.lists(
    st.sampled_from(["a", "b", "/", "*", "**", "**/", "/**/", "?", "[!a]"]), max_size=10
)
TEXTS = st.text("ab/", max_size=14)


@given(GLOBS.map("".join), TEXTS)
@example("**a*b", "a/ab")
@example("a*b/*a**ab*", "abab/aaab")
def test_a_glob_matches_what_the_naive_matcher_does(glob: str, text: str) -> None:
    assert bool(compile_glob(glob).fullmatch(text)) == naive(glob, text)


@given(st.text("ab/*?[]!^-\\", max_size=12), st.text(max_size=8))
def test_any_glob_compiles_or_is_refused(glob: str, text: str) -> None:
    with suppress(BadValueError):
        compile_glob(glob).fullmatch(text)


@pytest.mark.parametrize(
    ("glob", "text"),
    [
        ("*a" * 30 + "b", "a" * 255),
        ("**a" * 30 + "b", "a" * 4095),
        ("**/*a*a*a" * 8 + "b", "/aaaa" * 800),
        ("[!b]*" * 30 + "b", "a" * 255),
    ],
)
def test_a_hostile_path_does_not_stall_a_glob(glob: str, text: str) -> None:
    """A matcher that backtracks freely would not end before the test's time limit."""
    assert not compile_glob(glob).fullmatch(text)
