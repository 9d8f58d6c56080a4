"""Which rows of the table are wanted, and how a row is worded. On tables made up here."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tunowner.app.sockets import Wanted, app_test, connection_fields, list_sockets
from tunowner.app.who import details_fields
from tunowner.core.model import (
    TCP,
    UDP,
    Connection,
    Grade,
    Process,
    ProcessDetails,
    SocketHolder,
)
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from tunowner.backends.base import TableQuery

CURL, NGINX, CHILD = (
    Process(7, 1, "/usr/bin/curl", 1000, "ana"),
    Process(8, 1, "/opt/nginx/sbin/nginx", 33, "www"),
    Process(9, 2, "/opt/nginx/sbin/nginx", 33, "www"),
)
ONE, SIX = bytes((127, 0, 0, 1)), bytes(15) + b"\x01"


def row(local: int, remote: int, status: str, *holders: Process, **more: Any) -> Connection:
    held = tuple(SocketHolder(it, 3 + n, (it.uid or 0,) * 4) for n, it in enumerate(holders))
    grade = Grade.EXACT if held else Grade.KERNEL
    made = Connection(TCP, 4, ONE, local, ONE, remote, status, None, local, grade, held)
    return made._replace(**more)


class Table:
    """A backend of this table only."""

    def __init__(self, *rows: Connection) -> None:
        self.rows = rows

    def connections(self, query: TableQuery) -> list[Connection]:
        return [it for it in self.rows if it.protocol in query.protocols]


TABLE = Table(
    row(53, 0, "NONE", CURL, protocol=UDP),
    row(40000, 443, "ESTABLISHED", CURL),
    row(443, 0, "LISTEN", NGINX, CHILD),
    row(443, 40000, "ESTABLISHED", CHILD),
    row(54, 53, "NONE", protocol=UDP),
    row(443, 40001, "TIME_WAIT"),
)


@pytest.mark.parametrize(
    ("wanted", "ports"),
    [
        (Wanted(), [443, 443, 443, 40000, 53, 54]),
        (Wanted((UDP,)), [53, 54]),
        (Wanted(listening=True), [443, 53]),
        (Wanted(pid=9), [443, 443]),
        (Wanted(pid=8), [443]),
        (Wanted(pid=99), []),
        (Wanted(app="curl"), [40000, 53]),
        (Wanted(app="/opt/nginx/"), [443, 443]),
        (Wanted(app="/opt/**/ngin?"), [443, 443]),
        (Wanted(app="re:^/usr/.*url$"), [40000, 53]),
        (Wanted(pid=7, app="nginx"), []),
        (Wanted(port=53), [53, 54]),
        (Wanted(port=40000), [443, 40000]),
        (Wanted(state="established"), [443, 40000]),
        (Wanted(state="time-wait"), [443]),
        (Wanted((TCP,), listening=True, port=443, state="LISTEN", app="nginx", pid=8), [443]),
    ],
)
def test_filters(wanted: Wanted, ports: list[int]) -> None:
    found = list_sockets(wanted, TABLE)  # type: ignore[arg-type]
    assert [it.local_port for it in found] == ports


@pytest.mark.parametrize("text", ["re:(", "/opt/[", "[z-a]"])
def test_what_is_no_app(text: str) -> None:
    with pytest.raises(TunOwnerError, match="is no app"):
        app_test(text)


def test_a_process_whose_path_is_not_known_is_no_app() -> None:
    assert not app_test("*")(Process(7, 1))


def test_the_fields_of_gopsutil_and_more() -> None:
    fields = connection_fields(TABLE.rows[2])
    assert json.loads(json.dumps(fields)) == {
        "proto": "tcp",
        "fd": 3,
        "family": socket.AF_INET,
        "type": socket.SOCK_STREAM,
        "local": {"ip": "127.0.0.1", "port": 443},
        "remote": None,
        "status": "LISTEN",
        "uid": None,
        "uids": [33, 33, 33, 33],
        "grade": "exact",
        "pid": 8,
        "start": 1,
        "name": "nginx",
        "path": "/opt/nginx/sbin/nginx",
        "user": "www",
        "pids": [8, 9],
    }


def test_a_row_without_holder_has_the_same_fields() -> None:
    six = row(1, 2, "NONE")._replace(protocol=UDP, version=6, local=SIX, remote=SIX)
    nobody = connection_fields(six)
    assert set(nobody) == set(connection_fields(TABLE.rows[0]))
    assert (nobody["pid"], nobody["pids"], nobody["grade"]) == (None, [], "kernel")
    assert (nobody["local"], nobody["remote"]) == (
        {"ip": "::1", "port": 1},
        {"ip": "::1", "port": 2},
    )
    assert (nobody["family"], nobody["type"]) == (socket.AF_INET6, socket.SOCK_DGRAM)


def test_details_for_machines_tell_unknown_from_nothing() -> None:
    unknown = details_fields(ProcessDetails(CURL))
    assert {unknown[key] for key in ("cgroup", "unit", "package", "file")} == {None}
    known = ProcessDetails(CURL, file=(1, 2), command_line=("curl",), parents=(NGINX,), package="")
    told = json.loads(json.dumps(details_fields(known)))
    assert told["file"] == {"device": 1, "inode": 2}
    assert (told["package"], told["command_line"]) == ("", ["curl"])
    assert told["parents"] == [
        {"pid": 8, "start": 1, "name": "nginx", "path": "/opt/nginx/sbin/nginx"}
    ]
