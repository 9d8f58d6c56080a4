"""The connection table against what real processes say of their own sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.linux.children import Child, Truth, server
from tunowner.backends.base import TableQuery
from tunowner.backends.linux import table as module
from tunowner.backends.linux import table_holders
from tunowner.backends.linux.bpf.holdings import Held, Holdings, open_holdings
from tunowner.backends.linux.process import OpenProcess
from tunowner.backends.linux.sockdiag import AF_INET
from tunowner.backends.linux.sockdiag_table import TableDiag
from tunowner.backends.linux.table import connections
from tunowner.core.model import TCP, UDP, Connection, Grade
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., tuple[Child, list[Truth]]]
    ByCookie = Callable[..., dict[int | None, Connection]]

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

CLIENTS = "a, = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(3)]; tell(*s); wait()"


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[str, int]]:
    yield from server()


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: str, *arguments: object, **options: Any) -> tuple[Child, list[Truth]]:
            child = stack.enter_context(Child(code, *arguments, **options))
            return child, child.hear()

        yield begin


@pytest.fixture(params=["procfs", pytest.param("ebpf", marks=pytest.mark.root)])
def by_cookie(request: pytest.FixtureRequest) -> ByCookie:
    """Read the table by the one way and by the other: both answer alike."""
    held = open_holdings() if request.param == "ebpf" else None
    if request.param == "ebpf" and held is None:
        pytest.skip("the kernel does not take the iterators")

    def read(query: TableQuery | None = None) -> dict[int | None, Connection]:
        rows = connections(query or TableQuery(), lambda: held, many=0)
        return {row.cookie: row for row in rows}

    return read


def pids(row: Connection) -> list[int]:
    return [holder.process.pid for holder in row.holders]


def test_every_kind_of_socket(server: tuple[str, int], start: Start, by_cookie: ByCookie) -> None:
    code = """
a, = json.loads(sys.argv[1])
six = socket.create_server(('::1', 0), family=socket.AF_INET6)
mapped = tcp(('::ffff:127.0.0.1', a[1]))
socks = tcp(a), udp(['127.0.0.1', 0]), udp(None, ['127.0.0.9', 9]), six, mapped
tell(*socks); wait()"""
    child, (tcp, udp, connected, six, mapped) = start(code, server)
    rows = by_cookie()
    seen = [rows[truth.cookie] for truth in (tcp, udp, connected, six, mapped)]
    assert [(row.protocol, row.version, row.status) for row in seen] == [
        (TCP, 4, "ESTABLISHED"),
        (UDP, 4, "NONE"),
        (UDP, 4, "NONE"),
        (TCP, 6, "LISTEN"),
        (TCP, 6, "ESTABLISHED"),
    ]
    for row, truth in zip(seen, (tcp, udp, connected, six, mapped), strict=True):
        assert (pids(row), row.grade, row.uid) == ([child.pid], Grade.EXACT, os.getuid())
        assert row.source.rpartition(":")[0].strip("[]") == truth.local[0]
        assert row.local_port == truth.local[1]
    assert seen[0].destination == f"{server[0]}:{server[1]}"
    assert seen[1].destination == "*"


def test_what_is_told_of_a_holder(
    server: tuple[str, int], start: Start, by_cookie: ByCookie
) -> None:
    child, truths = start(CLIENTS, server)
    rows = by_cookie()
    holders = [rows[truth.cookie].holders[0] for truth in truths]
    for holder in holders:
        assert holder.process.path == os.path.realpath(sys.executable)
        assert holder.uids == (os.getuid(), os.geteuid(), os.getuid(), os.geteuid())
        assert os.readlink(f"/proc/{child.pid}/fd/{holder.fd}").startswith("socket:[")  # noqa: PTH115
    assert len({holder.fd for holder in holders}) == 3


def test_each_socket_once(server: tuple[str, int], start: Start) -> None:
    start(CLIENTS, server)
    rows = connections(TableQuery())
    assert len({row.cookie for row in rows}) == len(rows)


def test_shared_sockets_name_every_holder_the_oldest_first(
    server: tuple[str, int], start: Start, by_cookie: ByCookie
) -> None:
    code = """
a, = json.loads(sys.argv[1]); s = tcp(a); time.sleep(0.05); child = os.fork()
if child == 0: time.sleep(60); os._exit(0)
tell(s, child=child); wait(); os.kill(child, 9)"""
    child, (truth,) = start(code, server)
    for _ in range(20):
        assert pids(by_cookie()[truth.cookie]) == [child.pid, child.said["child"]]
    child.say()
    child.process.wait()


def test_a_socket_twice_in_one_process_is_one_holder(
    server: tuple[str, int], start: Start, by_cookie: ByCookie
) -> None:
    code = "a, = json.loads(sys.argv[1]); s = tcp(a); t = s.dup(); tell(s); wait()"
    child, (truth,) = start(code, server)
    assert pids(by_cookie()[truth.cookie]) == [child.pid]


def test_a_thread_with_its_own_descriptors(
    server: tuple[str, int], start: Start, by_cookie: ByCookie
) -> None:
    code = """
a, = json.loads(sys.argv[1])
def work():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    s = tcp(a); tell(s); time.sleep(60)
threading.Thread(target=work, daemon=True).start(); wait()"""
    child, (truth,) = start(code, server)
    row = by_cookie()[truth.cookie]
    assert (pids(row), row.holders[0].fd) == ([child.pid], None)


def test_threads_that_share_the_table_are_told_apart(start: Start) -> None:
    code = """
def work(own):
    if own: assert libc.unshare(0x400) == 0
    time.sleep(60)
threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in (0, 1)]
for thread in threads: thread.start()
time.sleep(0.1); tell(tids=[thread.native_id for thread in threads]); wait()"""
    child, _ = start(code)
    same = table_holders._comparison()
    assert [same(child.pid, tid) for tid in child.said["tids"]] == [True, False]


def test_a_connection_nobody_has_accepted(server: tuple[str, int], start: Start) -> None:
    _, (truth, *_) = start(CLIENTS, server)
    rows = connections(TableQuery((TCP,)))
    (other,) = [
        row for row in rows if (row.local_port, row.remote_port) == (server[1], truth.local[1])
    ]
    assert (other.grade, other.holders, other.uid) == (Grade.KERNEL, (), None)


def test_closed_by_its_process(server: tuple[str, int], start: Start, by_cookie: ByCookie) -> None:
    code = "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait(); s.close(); tell(); wait()"
    child, (truth,) = start(code, server)
    child.say()
    child.hear()
    row = by_cookie()[truth.cookie]
    assert row.status in ("FIN_WAIT1", "FIN_WAIT2")
    assert (row.grade, row.holders, row.uid) == (Grade.CLOSED, (), None)


def test_gone_between_the_dump_and_the_search(
    start: Start, monkeypatch: pytest.MonkeyPatch, by_cookie: ByCookie
) -> None:
    child, (truth,) = start("s = udp(['127.0.0.1', 0]); tell(s); wait()")
    real = module._dump

    def then_die(query: TableQuery) -> object:
        rows = real(query)
        child.process.kill()
        child.process.wait()
        return rows

    monkeypatch.setattr(module, "_dump", then_die)
    row = by_cookie()[truth.cookie]
    assert (row.holders, row.grade in (Grade.CLOSED, Grade.DENIED)) == ((), True)


def test_a_program_that_replaces_itself_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch, by_cookie: ByCookie
) -> None:
    """Its socket was closed by exec: the new program is not named for it."""
    code = """
s = udp(['127.0.0.1', 0]); tell(s); wait()
os.execv('/bin/sh', ['sh', '-c', f'echo {json.dumps(json.dumps({"sockets": []}))}; read x'])"""
    child, (truth,) = start(code)
    pid, listed, told = child.pid, OpenProcess.find_links, Holdings.held

    def then_exec() -> None:
        child.say()
        child.hear()

    def find_links(self: OpenProcess, *arguments: Any) -> Any:
        found = listed(self, *arguments)
        if self.pid == pid and found[0]:
            then_exec()
        return found

    def held(self: Holdings) -> Held:
        found = told(self)
        then_exec()
        return found

    monkeypatch.setattr(OpenProcess, "find_links", find_links)
    monkeypatch.setattr(Holdings, "held", held)
    assert by_cookie()[truth.cookie].holders == ()


def test_queries(server: tuple[str, int], start: Start, by_cookie: ByCookie) -> None:
    _, (tcp, *_) = start(CLIENTS, server)
    assert {row.protocol for row in connections(TableQuery((UDP,)))} <= {UDP}
    assert {row.protocol for row in connections(TableQuery((TCP,)))} == {TCP}
    rows = by_cookie(TableQuery((TCP,), tcp.local[1]))
    assert {row.local_port for row in rows.values()} == {tcp.local[1]}
    assert rows[tcp.cookie].grade is Grade.EXACT
    row = by_cookie(TableQuery((TCP,), tcp.local[1], holders=False))[tcp.cookie]
    assert (row.holders, row.status) == ((), "ESTABLISHED")


def test_a_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(TableDiag, "table", refuse)
    with pytest.raises(BackendError, match="refused"):
        connections(TableQuery())


@pytest.mark.parametrize("size", [256, 4096, 1 << 16])
def test_a_whole_table_through_small_buffers(server: tuple[str, int], size: int) -> None:
    with ExitStack() as stack:
        mine = [stack.enter_context(socket.create_connection(server)) for _ in range(500)]
        diag = TableDiag(buffer_size=size)
        try:
            rows = diag.table(TCP, AF_INET)
        finally:
            diag.close()
        assert {os.fstat(it.fileno()).st_ino for it in mine} <= set(rows.inodes)
        assert {it.getsockname()[1] for it in mine} | {server[1]} <= set(rows.local_ports)


@pytest.mark.root
def test_without_privilege(server: tuple[str, int], start: Start) -> None:
    """Others' sockets are told with their user, our own with their process."""
    _, (truth, *_) = start(CLIENTS, server)
    code = f"""
import os, pwd, socket
from tunowner.backends.base import TableQuery
from tunowner.backends.linux.sockdiag_table import TableDiag
from tunowner.backends.linux.table import connections
os.setgroups([]); os.setgid(65534); os.setuid(65534)
mine = socket.create_server(('127.0.0.1', 0))
rows = connections(TableQuery())
(other,) = [row for row in rows if row.cookie == {truth.cookie}]
(own,) = [row for row in rows if row.local_port == mine.getsockname()[1]]
print(other.grade, other.uid, other.holders, own.uid)"""
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.stdout.split() == ["denied", "0", "()", "65534"], said.stderr
