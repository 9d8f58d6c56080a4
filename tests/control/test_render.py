"""What people read: a line for a flow, a block for an owner, and never a control character."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core import packets as p
from tunowner.app.events import EventMaker
from tunowner.control.render import clean, event_line
from tunowner.core.model import Audited, Decision, Grade, Owner, Process

CURL = Process(812, 1, "/usr/bin/curl", 1000, "ana")
EVIL = "/tmp/\x1b[2Jx\n\r\x07\u202e\u2028\udcff"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("curl", "curl"),
        ("Grüße 你好 🦊", "Grüße 你好 🦊"),
        ("a b", "a b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b", "\\x9b"),
        ("\x7f", "\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\udcff", "\\udcff"),
        (None, "None"),
        (7, "7"),
    ],
)
def test_clean(text: object, expected: str) -> None:
    assert clean(text) == expected


@given(st.text(st.characters()))
def test_clean_text_always_prints_and_can_be_encoded(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(text).encode().decode() == clean(text)


def line(decision: Decision) -> str:
    return event_line(EventMaker().opened(p.flow(), decision, at=0.25))


def test_the_line_of_a_flow() -> None:
    owner = Owner(Grade.EXACT, (CURL,), lookup_us=1234)
    text = line(Decision("block", owner, "no-curl", "rules.yaml", "app is curl"))
    assert re.fullmatch(r"\d\d:\d\d:00\.250 .*", text)
    assert text.partition(" ")[2] == (
        "tcp curl[812] ana 192.0.2.1:40000 -> 203.0.113.5:443 block  rule=no-curl"
        "  app is curl  lookup=1.2ms"
    )


def test_what_rules_left_on_a_flow() -> None:
    owner, audited = Owner(Grade.EXACT, (CURL,)), (Audited("try", "block"),)
    text = line(Decision("direct", owner, why="default", tags=("web", "x"), audited=audited))
    assert text.endswith(" direct  default  audit: try would block  #web #x  lookup=0.0ms")


def test_the_line_of_a_flow_of_nobody() -> None:
    text = line(Decision("direct", Owner(Grade.UID_ONLY, uid=1000, user="ana"), why="no rule"))
    assert "tcp (unknown: uid-only) ana 192.0.2.1" in text
    assert "rule=" not in text
    assert "None" not in text


def test_the_line_of_a_process_without_a_path() -> None:
    assert " ?[9] 0 " in line(Decision("direct", Owner(Grade.EXACT, (Process(9, 1, None, 0),))))


def test_a_hostile_process_cannot_draw_on_the_terminal() -> None:
    owner = Owner(Grade.EXACT, (Process(1, 1, EVIL, 0, EVIL),), detail=EVIL)
    decision = Decision("direct", owner, EVIL, EVIL, EVIL)
    assert line(decision).isprintable()


def test_ready_and_stopped() -> None:
    maker = EventMaker()
    ready = maker.other("ready", device="tun0", rules=3)
    assert event_line(ready) == "ready: tun0, 3 rules. Ctrl-C ends it."
    dry = maker.other("ready", device="tun0", rules=3, dry_run=True)
    assert "dry run: everything passes" in event_line(dry)
    stopped = maker.other("stopped", statistics={"packets": 3, "flows": 0, "carried": 2})
    assert event_line(stopped) == "stopped: packets 3, carried 2"
    assert event_line(maker.other("later\x1b")) == "later\\x1b"
