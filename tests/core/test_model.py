"""The nouns: how they read, and when an owner names a process."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.core import packets as p
from tunowner.core.model import (
    BUILTIN_ACTIONS,
    UDP,
    Decision,
    FlowKey,
    Grade,
    Owner,
    Process,
    endpoint,
)

A, B = Process(1, 10, "/usr/bin/a"), Process(2, 20, "/usr/bin/b")


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [
        ("192.0.2.1", 80, "192.0.2.1:80"),
        ("2001:db8::1", 443, "[2001:db8::1]:443"),
        ("::", 0, "[::]:0"),
    ],
)
def test_an_endpoint_reads_like_one(address: str, port: int, text: str) -> None:
    assert endpoint(ip_address(address).packed, port) == text


def test_a_flow_reads_from_here_to_there() -> None:
    flow = p.flow(UDP)
    assert (flow.source, flow.destination) == ("192.0.2.1:40000", "203.0.113.5:53")
    assert str(flow) == "udp 192.0.2.1:40000 -> 203.0.113.5:53"
    assert str(p.flow(ipv6=True)) == "tcp [2001:db8::1]:40000 -> [2001:db8:5::5]:443"
    assert FlowKey(132, bytes(4), 1, bytes(4), 2).protocol_name == "132"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/bin/curl", "curl"),
        ("C:\\Program Files\\App\\app.exe", "app.exe"),
        ("curl", "curl"),
        ("/", ""),
        (None, None),
    ],
)
def test_the_name_of_a_process(path: str | None, name: str | None) -> None:
    assert Process(1, 1, path).name == name


NAMING = {Grade.EXACT, Grade.WILDCARD}


@pytest.mark.parametrize("grade", list(Grade))
def test_only_a_sure_answer_names_a_process(grade: Grade) -> None:
    """Naming the wrong one is the worst this program can do."""
    assert Owner(grade, (A, B)).process == (A if grade in NAMING else None)
    assert Owner(grade).process is None


def test_the_grades_are_the_words_of_the_schema() -> None:
    assert {str(grade) for grade in Grade} == {
        *("exact", "wildcard", "ambiguous", "uid-only", "cgroup-only"),
        *("closed", "kernel", "denied", "absent"),
    }


def test_the_builtin_actions() -> None:
    assert BUILTIN_ACTIONS == ("direct", "block", "drop")


@pytest.mark.parametrize("value", [Owner(Grade.ABSENT), Decision("block", Owner(Grade.ABSENT))])
def test_values_do_not_change(value: Owner | Decision) -> None:
    for name in value._fields:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
