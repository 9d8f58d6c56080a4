"""Regular expressions: what may take forever is refused, and what is let through does not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunowner.core.rules.findings import BadValueError
from tunowner.core.rules.regexes import MAX_SUBJECT, compile_regex

SLOW = [
    r"(a+)+$",
    r"(a*)*b",
    r"(a|a)*b",
    r"(a|ab|b)*c",
    r"(a|b?)*c",
    r"(.*)*x",
    r"(.*,)*x",
    r"(\w+\s?)+$",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(?:a?){30}a{30}",
    r"a?" * 30 + "a" * 30,
    r"(x+x+)+y",
    r"a*a*a*b",
    r"(a*a*b+)c",
    r"a*" + "a" * 500 + "b",
    r"^.*a.*b.*c$",
    r"foo.*bar.*baz",
    r"(?=(a+)+$)a",
    r"((a{1,9}){1,9})+b",
    r"(?i)(k|\u212a)*x|([a-z]+)*\d",
    "a" * 1_001,
]
FINE = [
    r"bin/cu?rl$",
    r"^/opt/.*/bin/.*$",
    r"/opt/.*/bin/",
    r"/opt/.*/bin/python-versions/",
    r"chrom(e|ium)",
    r"(?i)^/usr/(local/)?bin/python[0-9.]*$",
    r"^(/[^/]+)*/bin/[a-z]+$",
    r"^(?:/[^/]++)*+/x",
    r"[0-9]+\.[0-9]+\.[0-9]+",
    r"(a+b)+c",
    r"(\.\d+)?(-r\d+)?$",
    r"^(?!curl-a)curl-.$",
    r"(?P<q>['\"]).*(?P=q)",
    r"v(1|2|30)x",
    r"",
    r"^",
    r"a{2,5}b",
    r"\bfoo\b",
]
EVIL = [
    "a" * MAX_SUBJECT,
    "a/" * (MAX_SUBJECT // 2),
    "/" * MAX_SUBJECT,
    "1.-r" * (MAX_SUBJECT // 4),
]


@pytest.mark.parametrize("source", SLOW)
def test_what_may_take_forever_is_refused(source: str) -> None:
    with pytest.raises(BadValueError) as caught:
        compile_regex(source)
    assert caught.value.code == "E126"


@pytest.mark.parametrize("source", FINE)
def test_what_cannot_is_not(source: str) -> None:
    compiled = compile_regex(source)
    for subject in EVIL:
        compiled.search(subject + "!")


PIECES = st.sampled_from(
    ["a", "b", "[ab]", ".", "a*", "b+", "a?", ".*", "[^a]+", r"\w*", "$", "^", "(?:ab)*", "(a|b)+"]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=5).map("".join), st.sampled_from(["", "*", "+", "{2,9}"]))
def test_whatever_is_let_through_ends(piece: str, repeat: str) -> None:
    """A worst text of 600 characters: what is exponential would not end before the time limit."""
    try:
        compiled = compile_regex(f"({piece}){repeat}c" if piece else "c")
    except BadValueError:
        return
    for subject in ("a" * 600, "ab" * 300, "b" * 600 + "a"):
        compiled.search(subject)


@given(st.text(alphabet=r"ab*+?()[]|.^$\d{}2,9-<=!:P", max_size=12))
def test_any_text_compiles_or_is_refused(source: str) -> None:
    with suppress(BadValueError):
        compile_regex(source)
