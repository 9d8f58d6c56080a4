"""The resolver of last resort. psutil works on Linux too, so it is tested here on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest

from tests.backends.linux.children import Child, server
from tests.backends.owner_contract import NOWHERE, Case, OwnerContract
from tunowner.backends import portable
from tunowner.backends.base import GateSettings, TableQuery
from tunowner.backends.portable import PortableBackend, PortableInspector, PortableOwners, Row, fit
from tunowner.core.model import TCP, UDP, FlowKey, Grade, Process
from tunowner.errors import BackendError

if sys.platform != "linux":
    pytest.skip("children.py needs Linux", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., tuple[Child, list[Any]]]

FAR = ("127.0.0.9", 9)
REUSE = f"({socket.SO_REUSEADDR}, {socket.SO_REUSEPORT})"
TCP_CHILD = "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait()"
UDP_CHILD = f"l, = json.loads(sys.argv[1]); s = udp(l, None, reuse={REUSE}); tell(s); wait()"
LOOPBACK = bytes((127, 0, 0, 1))


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[str, int]]:
    yield from server()


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: str, *arguments: object) -> tuple[Child, list[Any]]:
            child = stack.enter_context(Child(code, *arguments))
            return child, child.hear()

        yield begin


def ask(flow: FlowKey) -> Any:
    return dict(PortableOwners().walk([flow]))[flow]


class TestPortableOwners(OwnerContract):
    quick_knows: ClassVar[bool] = False

    @pytest.fixture
    def case(self, server: tuple[str, int], start: Start) -> Case:
        code = "a, = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(2)]; u = udp(None, a); tell(*s, u); wait()"
        child, truths = start(code, server)
        return Case(PortableOwners(), [truth.flow() for truth in truths], child.pid)


class TestGrades:
    def test_exact(self, server: tuple[str, int], start: Start) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        owner = ask(truth.flow())
        assert (owner.grade, owner.process.pid, owner.backend) == (Grade.EXACT, child.pid, "psutil")
        assert owner.process.path == os.path.realpath(sys.executable)

    @pytest.mark.parametrize("address", ["", "127.0.0.1"])
    def test_wildcard(self, start: Start, address: str) -> None:
        child, (truth,) = start(UDP_CHILD, [address, 0])
        owner = ask(truth.flow("127.0.0.1", FAR))
        assert (owner.grade, owner.process.pid) == (Grade.WILDCARD, child.pid)

    def test_ambiguous(self, start: Start) -> None:
        one, (truth,) = start(UDP_CHILD, ["127.0.0.1", 0])
        two, _ = start(UDP_CHILD, truth.local)
        owner = ask(truth.flow(remote=FAR))
        assert (owner.grade, owner.process) == (Grade.AMBIGUOUS, None)
        assert {it.pid for it in owner.candidates} == {one.pid, two.pid}

    def test_a_wildcard_beside_a_bound_socket_may_be_the_sender(self, start: Start) -> None:
        _, (truth,) = start(UDP_CHILD, ["127.0.0.1", 0])
        start(UDP_CHILD, ["", truth.local[1]])
        assert ask(truth.flow(remote=FAR)).grade is Grade.AMBIGUOUS

    def test_absent(self, server: tuple[str, int]) -> None:
        assert ask(FlowKey(UDP, NOWHERE, 1, NOWHERE, 2)).grade is Grade.ABSENT
        listener = FlowKey(TCP, LOOPBACK, server[1], NOWHERE, 9)
        assert ask(listener).grade is Grade.ABSENT, "a listener is no owner of a flow"

    def test_closed(self, server: tuple[str, int], start: Start) -> None:
        code = (
            "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait(); s.close(); tell(); wait()"
        )
        child, (truth,) = start(code, server)
        child.say()
        child.hear()
        assert ask(truth.flow()).grade is Grade.CLOSED

    @pytest.mark.root
    def test_denied(self, server: tuple[str, int], start: Start) -> None:
        _, (truth,) = start(TCP_CHILD, server)
        code = f"""
import os, pwd, psutil
from tunowner.backends.portable import PortableOwners, PortableBackend
from tunowner.backends.base import TableQuery
from tunowner.core.model import FlowKey
os.setgroups([]); os.setgid(65534); os.setuid(65534)
flow = FlowKey(*{tuple(truth.flow())!r})
owner = dict(PortableOwners().walk([flow]))[flow]
rows = PortableBackend().connections(TableQuery())
print(owner.grade, owner.candidates, {{row.grade.value for row in rows}} <= {{'denied', 'closed'}})"""
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert said.stdout.split() == ["denied", "()", "True"], said.stderr

    def test_a_table_that_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(psutil, "net_connections", fail)
        assert ask(FlowKey(TCP, LOOPBACK, 1, LOOPBACK, 2)).grade is Grade.DENIED
        with pytest.raises(BackendError):
            PortableBackend().connections(TableQuery())

    def test_processes_one_by_one_where_the_whole_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, server: tuple[str, int], start: Start
    ) -> None:
        """As on macOS without root."""
        child, (truth,) = start(TCP_CHILD, server)

        def refuse(*_: object) -> None:
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil, "net_connections", refuse)
        assert ask(truth.flow()).process.pid == child.pid

    def test_it_dies_after_the_table_was_read(
        self, monkeypatch: pytest.MonkeyPatch, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        real = portable.read_table

        def then_die() -> portable.Table:
            table = real()
            child.process.kill()
            child.process.wait()
            return table

        monkeypatch.setattr(portable, "read_table", then_die)
        owner = ask(truth.flow())
        assert (owner.grade, owner.candidates) == (Grade.CLOSED, ())


def row(local: bytes, remote: bytes = b"", *, protocol: int = UDP, version: int = 4) -> Row:
    empty = bytes(len(local))
    return Row(protocol, version, local, 53, remote or empty, 9 if remote else 0, "NONE", 7, 3)


ANY4, ANY6, ONE, TWO = bytes(4), bytes(16), LOOPBACK, bytes((127, 0, 0, 2))
MAPPED = bytes(10) + b"\xff\xff" + ONE


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (row(ONE, TWO), 0),
        (row(MAPPED, bytes(10) + b"\xff\xff" + TWO, version=6), 0),
        (row(ONE), 1),
        (row(MAPPED, version=6), 1),
        (row(ANY4), 2),
        (row(ANY6, version=6), 3),
        (row(TWO), None),
        (row(ONE, ONE), None),
        (row(ANY4, TWO), None),
        (row(ONE, protocol=TCP), None),
    ],
)
def test_fit(found: Row, place: int | None) -> None:
    assert fit(found, ONE, 53, (TWO, 9)) == place
    assert fit(found, ONE, 54, (TWO, 9)) is None


class TestBackend:
    def test_find_process(self, server: tuple[str, int], start: Start) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        backend = PortableBackend()
        for ip in ("127.0.0.1", "", "*"):
            owner = backend.find_process("tcp", ip, server[1], None)
            assert owner.process is not None
            assert (owner.grade, owner.process.pid) == (Grade.EXACT, os.getpid())
        owner = backend.find_process("tcp", "", truth.local[1], truth.remote)
        assert owner.process is not None
        assert owner.process.pid == child.pid

    def test_connections(self, server: tuple[str, int], start: Start) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        rows = PortableBackend().connections(TableQuery((TCP,), truth.local[1]))
        (found,) = [row for row in rows if row.destination == f"{server[0]}:{server[1]}"]
        assert (found.process and found.process.pid, found.status) == (child.pid, "ESTABLISHED")
        assert found.grade is Grade.EXACT

    def test_what_it_cannot_do(self) -> None:
        backend = PortableBackend()
        for attempt in (
            lambda: backend.open_data_plane(GateSettings()),
            backend.open_deaths,
        ):
            with pytest.raises(BackendError):
                attempt()
        assert not all(check.ok for check in backend.doctor())


class TestInspector:
    def test_details(self) -> None:
        inspector = PortableInspector()
        process = inspector.process(os.getpid())
        assert process is not None
        details = inspector.details(process, sha256=True)
        assert details is not None
        assert details.parents[0].pid == os.getppid()
        assert details.parents_whole
        assert details.command_line
        assert details.sha256 is not None

    def test_another_process(self) -> None:
        inspector = PortableInspector()
        process = inspector.process(os.getpid())
        assert process is not None
        assert inspector.details(process._replace(start=1)) is None
        assert inspector.details(process._replace(path="/bin/other")) is None
        assert inspector.details(Process(2**22 + 1, 1)) is None
        assert inspector.process(2**22 + 1) is None
