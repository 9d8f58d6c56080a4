"""The suite of test_owners.py once more, with eBPF answering first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux import test_owners as plain
from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.test_owners import _server, other_python, pids, start
from tests.backends.owner_contract import ask
from tunowner.backends.linux.bpf.loader import OwnerMap
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends.linux.test_owners import Start

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

__all__ = ["_server", "other_python", "start"]

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made:
        yield made


@pytest.fixture(params=["btf", "helpers"])
def source(cgroup: Path, request: pytest.FixtureRequest) -> Iterator[LinuxOwners]:
    with LinuxOwners(bpf=OwnerMap(cgroup, reads_tasks=request.param == "btf")) as made:
        yield made


class TestContract(plain.TestLinuxOwners): ...


class TestSockets(plain.TestSockets):
    def test_closed_by_its_process(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = (
            "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait(); s.close(); tell(); wait()"
        )
        child, (truth,) = start(code, server)
        child.say()
        child.hear()
        owner = ask(source, truth.flow())  # FIN_WAIT2: nobody closes the other end
        if owner.backend == "procfs":  # without BTF it is not certain who had the pid
            assert (owner.grade, pids(owner), owner.uid) == (Grade.CLOSED, [], None)
            return
        assert (owner.grade, pids(owner), owner.uid) == (Grade.EXACT, [child.pid], None)
        assert (owner.cookie, owner.detail) == (truth.cookie, "closed since")


class TestTies(plain.TestTies): ...


class TestSharing(plain.TestSharing):
    """The last user comes first. That others hold the socket too is not looked for."""

    def test_parent_and_child_hold_the_socket(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start(plain.FORK, server)
        for _ in range(100):
            owner = ask(source, truth.flow())
            assert owner.process is not None
            assert (owner.grade, owner.process.pid) == (Grade.EXACT, child.pid)

    test_a_remembered_process_does_not_hide_a_sharing_child = None  # type: ignore[assignment,unused-ignore]

    def test_the_primary_does_not_change_when_an_older_process_gets_the_socket(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); u, v = socket.socketpair(); child = os.fork()
if child == 0:
    s = tcp(a); tell(s); u.recv(1); socket.send_fds(u, [b'x'], [s.fileno()]); time.sleep(60); os._exit(0)
wait(); v.send(b'x'); got = socket.recv_fds(v, 1, 1); tell(child=child); wait(); os.kill(child, 9)"""
        child, (truth,) = start(code, server)
        opener, flow = child.pid, truth.flow()
        assert pids(ask(source, flow)) == [opener]
        child.say()
        child.hear()
        assert pids(dict(source.walk([flow]))[flow])[0] == opener
        assert pids(ask(source, flow))[0] == opener
        child.say()
        child.process.wait()


class TestThreads(plain.TestThreads): ...


class TestExecutables(plain.TestExecutables): ...


class TestTime(plain.TestTime):
    test_gone_between_found_and_described = None  # type: ignore[assignment,unused-ignore]
    """See test_bpf_owner.py: the note outlives the process."""


class TestPrivileges(plain.TestPrivileges): ...


class TestBatches(plain.TestBatches): ...
