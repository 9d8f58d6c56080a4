"""The kernel's iterators and /proc name the same holders, whatever is done with descriptors."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.children import Child, Truth, server
from tunowner.backends.base import TableQuery
from tunowner.backends.linux.bpf import holdings as module
from tunowner.backends.linux.bpf import loading
from tunowner.backends.linux.bpf.holdings import FILE, Holdings, open_holdings
from tunowner.backends.linux.table import connections
from tunowner.core.model import Connection, Grade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., tuple[Child, list[Truth]]]

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

IPPROTO_MPTCP = 262


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[str, int]]:
    yield from server()


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: str, *arguments: object) -> tuple[Child, list[Truth]]:
            child = stack.enter_context(Child(code, *arguments))
            return child, child.hear()

        yield begin


@pytest.fixture
def told() -> Holdings:
    held = open_holdings()
    if held is None:
        pytest.skip("the kernel does not take the iterators")
    return held


def rows(told: Holdings | None, *cookies: int) -> list[Connection]:
    """Read the table, by the iterators if there are any, and return some rows of it."""
    table = {it.cookie: it for it in connections(TableQuery(), lambda: told, many=0)}
    return [table[cookie] for cookie in cookies]


def alike(told: Holdings, *truths: Truth) -> list[list[int]]:
    """Ask both ways, which must agree; return the pids of each socket's holders."""
    cookies = [truth.cookie for truth in truths]
    by_kernel = rows(told, *cookies)
    assert by_kernel == rows(None, *cookies)
    return [[holder.process.pid for holder in row.holders] for row in by_kernel]


def test_what_is_loaded_is_made_of_the_source_beside_it() -> None:
    source = FILE.with_name("table.bpf.c").read_bytes()
    assert hashlib.sha256(source).hexdigest().encode() in FILE.read_bytes()


@pytest.mark.root
class TestAlike:
    def test_shared_by_many_processes_and_descriptors(
        self, server: tuple[str, int], start: Start, told: Holdings
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); mine = [tcp(a), udp(['127.0.0.1', 0])]; copies = [s.dup() for s in mine]
pids = []; r, w = os.pipe()
for _ in range(3):
    time.sleep(0.03); pid = os.fork()
    if pid == 0:
        own = mine[0].dup(); mine[1].close(); os.write(w, b'.'); time.sleep(60); os._exit(0)
    pids.append(pid); os.read(r, 1)
tell(*mine, pids=pids); wait()
for pid in pids: os.kill(pid, 9)
tell()"""
        child, truths = start(code, server)
        everyone = [child.pid, *child.said["pids"]]
        assert alike(told, *truths) == [everyone, everyone]
        child.say()
        child.hear()

    def test_threads_with_tables_of_their_own(
        self, server: tuple[str, int], start: Start, told: Holdings
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); shared = tcp(a); made = []
def work():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    made.append(tcp(a)); time.sleep(60)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
while len(made) < 2: time.sleep(0.01)
tell(shared); wait()"""
        child, truths = start(code, server)
        assert alike(told, *truths) == [[child.pid]]

    def test_the_socket_of_a_thread_only(
        self, server: tuple[str, int], start: Start, told: Holdings
    ) -> None:
        code = """
a, = json.loads(sys.argv[1])
def work():
    assert libc.unshare(0x400) == 0
    s = tcp(a); tell(s); time.sleep(60)
threading.Thread(target=work, daemon=True).start(); wait()"""
        child, (truth,) = start(code, server)
        assert alike(told, truth) == [[child.pid]]
        assert rows(told, truth.cookie)[0].holders[0].fd is None

    def test_the_first_thread_has_exited(
        self, server: tuple[str, int], start: Start, told: Holdings
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); first = threading.main_thread().native_id
def work():
    while open(f'/proc/self/task/{first}/stat').read().rpartition(')')[2].split()[0] != 'Z':
        time.sleep(0.01)
    tell(s); time.sleep(60)
s = tcp(a); threading.Thread(target=work).start()
libc.syscall(60, 0)  # exit(2): of this thread alone"""
        child, (truth,) = start(code, server)
        assert alike(told, truth) == [[child.pid]]

    def test_a_process_in_a_pid_namespace(self, start: Start, told: Holdings) -> None:
        code = """
assert libc.unshare(0x20000000) == 0  # CLONE_NEWPID
r, w = os.pipe(); pid = os.fork()
if pid == 0:
    s = socket.create_server(('127.0.0.1', 0))
    os.write(w, json.dumps([os.getpid(), s.getsockname()[1]]).encode()); time.sleep(60); os._exit(0)
inner, port = json.loads(os.read(r, 99)); tell(outer=pid, inner=inner, port=port); wait()
os.kill(pid, 9); tell()"""
        child, _ = start(code)
        for way in (told, None):
            table = connections(TableQuery(), lambda way=way: way, many=0)  # type: ignore[misc]
            (row,) = [it for it in table if it.local_port == child.said["port"]]
            assert [it.process.pid for it in row.holders] == [child.said["outer"]]
        assert child.said["inner"] == 1
        child.say()
        child.hear()

    def test_sockets_of_another_network_namespace(
        self, server: tuple[str, int], start: Start, told: Holdings
    ) -> None:
        """They are not in the table; one from here that was taken there is."""
        code = """
a, = json.loads(sys.argv[1]); s = tcp(a)
assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET
t = udp(['', 0]); tell(s, t); wait()"""
        child, (here, there) = start(code, server)
        assert alike(told, here) == [[child.pid]]
        for way in (told, None):
            table = connections(TableQuery(), lambda way=way: way, many=0)  # type: ignore[misc]
            assert there.cookie not in {row.cookie for row in table}

    def test_multipath_tcp(self, start: Start, told: Holdings) -> None:
        """The kernel lists the flow of it, whose cookie is not that of the socket."""
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
        except OSError:
            pytest.skip("the kernel has no MPTCP")
        code = """
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.bind(('127.0.0.1', 0)); s.listen()
tell(port=s.getsockname()[1]); wait()"""
        child, _ = start(code)
        found = []
        for way in (told, None):
            table = connections(TableQuery(), lambda way=way: way, many=0)  # type: ignore[misc]
            found += [row for row in table if row.local_port == child.said["port"]]
        assert len(found) == 2
        assert found[0] == found[1]
        assert [it.process.pid for it in found[0].holders] == [child.pid]

    def test_thousands(self, told: Holdings) -> None:
        """The whole of it: every row of ours, one by one."""
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=600))
            for _ in range(400):
                stack.enter_context(socket.create_connection(listener.getsockname()))
                stack.enter_context(listener.accept()[0])
            port = listener.getsockname()[1]
            ways = []
            for way in (told, None):
                table = connections(TableQuery(), lambda way=way: way, many=0)  # type: ignore[misc]
                ours = [it for it in table if port in (it.local_port, it.remote_port)]
                ways.append(sorted(ours))
        assert ways[0] == ways[1]
        assert len(ways[0]) == 801
        assert {holder.process.pid for row in ways[0] for holder in row.holders} == {os.getpid()}


@pytest.mark.root
class TestDoubt:
    """A process of which the iterators do not tell, or that changed meanwhile, is read in /proc."""

    @pytest.mark.parametrize("missing", ["before", "after", "both"])
    def test_a_process_not_told_of(
        self,
        missing: str,
        server: tuple[str, int],
        start: Start,
        told: Holdings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        child, (truth,) = start("a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait()", server)
        real = Holdings.programs
        calls: list[bool] = []

        def programs(self: Holdings) -> dict[int, tuple[int, int, int]]:
            found = real(self)
            calls.append(missing == "both" or (missing == "before") == (not calls))
            if calls[-1]:
                del found[child.pid]
            return found

        monkeypatch.setattr(Holdings, "programs", programs)
        (row,) = rows(told, truth.cookie)
        assert (row.grade, [it.process.pid for it in row.holders]) == (Grade.EXACT, [child.pid])
        assert True in calls

    def test_the_holder_dies_meanwhile(
        self, start: Start, told: Holdings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child, (truth,) = start("s = udp(['127.0.0.1', 0]); tell(s); wait()")
        real = Holdings.held

        def held(self: Holdings) -> module.Held:
            found = real(self)
            child.process.kill()
            child.process.wait()
            return found

        monkeypatch.setattr(Holdings, "held", held)
        (row,) = rows(told, truth.cookie)
        assert (row.holders, row.grade in (Grade.CLOSED, Grade.DENIED)) == ((), True)


class TestWithout:
    def test_a_machine_that_bpf_has_no_known_number_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loading, "_NUMBERS", {})
        assert open_holdings() is None

    @pytest.mark.root
    @pytest.mark.parametrize("part", [b"bpf_iter_task_file", b"start_boottime", b"skip"])
    def test_a_kernel_that_lacks_something(
        self, part: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An iterator or a field that is not in its BTF; at last a program that is none."""
        packed = FILE.read_bytes()
        broken = packed.replace(part, part[::-1]) if part in packed else packed[:-8] + bytes(8)
        assert broken != packed
        (tmp_path / "broken").write_bytes(broken)
        monkeypatch.setattr(module, "FILE", tmp_path / "broken")
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        assert open_holdings() is None
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208

    @pytest.mark.root
    def test_no_privilege(self) -> None:
        code = """
import os; from tunowner.backends.linux.bpf.holdings import open_holdings
os.setgroups([]); os.setgid(65534); os.setuid(65534); print(open_holdings())"""
        words = [sys.executable, "-c", code]
        said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert said.stdout.split() == ["None"], said.stderr

    @pytest.mark.root
    def test_a_pid_namespace_of_our_own(self) -> None:
        code = (
            "from tunowner.backends.linux.bpf.holdings import open_holdings; print(open_holdings())"
        )
        words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
        said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert said.stdout.split() == ["None"], said.stderr

    @pytest.mark.root
    def test_nothing_stays_open(self) -> None:
        if open_holdings() is None:
            pytest.skip("the kernel does not take the iterators")
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        for _ in range(3):
            open_holdings()
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
