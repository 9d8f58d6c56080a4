"""The differential oracle: every child tells its own pid, cookie and 5-tuple; no answer may be wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.backends.linux.children import Child, Truth, server
from tests.backends.owner_contract import NOWHERE, Case, OwnerContract, ask
from tunowner.backends.linux import owners as module
from tunowner.backends.linux.find import find_process
from tunowner.backends.linux.holders import Holder, Lru, Memory
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.process import age
from tunowner.backends.linux.procfs import describe
from tunowner.core.model import TCP, UDP, FlowKey, Grade, Owner, Process
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.procfs import ProcessDir
    from tunowner.backends.linux.sockdiag import SocketRow

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

LOOPBACK = bytes((127, 0, 0, 1))
FAR = ("127.0.0.9", 9)
"""A remote end that nobody listens at; enough for UDP."""
REUSE = f"({socket.SO_REUSEADDR}, {socket.SO_REUSEPORT})"
TCP_CHILD = "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait()"
UDP_CHILD = "l, r = json.loads(sys.argv[1]); s = udp(l, r); tell(s); wait()"
SHARED_PORT_CHILD = f"l, r = json.loads(sys.argv[1]); s = udp(l, r, reuse={REUSE}); tell(s); wait()"


class Start(Protocol):
    """Starts a child and returns it with its first word; all are ended with the test."""

    def __call__(
        self, code: str, /, *arguments: object, executable: str = ..., inherit: tuple[int, ...] = ()
    ) -> tuple[Child, list[Truth]]: ...


@pytest.fixture
def source() -> Iterator[LinuxOwners]:
    with LinuxOwners() as made:
        yield made


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[str, int]]:
    yield from server()


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: str, /, *arguments: object, **options: Any) -> tuple[Child, list[Truth]]:
            child = stack.enter_context(Child(code, *arguments, **options))
            return child, child.hear()

        yield begin


def pids(owner: Owner) -> list[int]:
    return [process.pid for process in owner.candidates]


def check(source: LinuxOwners, flow: FlowKey, child: Child, truth: Truth, grade: Grade) -> Owner:
    """Ask twice, cold and warm; both must be right."""
    for owner in (ask(source, flow), ask(source, flow)):
        assert (owner.grade, pids(owner), owner.cookie) == (grade, [child.pid], truth.cookie)
        assert owner.backend in ("procfs", "ebpf")
        assert owner.lookup_us > 0
        assert owner.process is not None
        assert owner.process.path == str(Path(f"/proc/{child.pid}/exe").readlink())
    return owner


class TestLinuxOwners(OwnerContract):
    @pytest.fixture
    def case(self, source: LinuxOwners, server: tuple[str, int], start: Start) -> Case:
        code = "a, = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(3)]; u = udp(None, a); tell(*s, u); wait()"
        child, truths = start(code, server)
        return Case(source, [truth.flow() for truth in truths], child.pid)


class TestSockets:
    def test_tcp(self, source: LinuxOwners, server: tuple[str, int], start: Start) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        owner = check(source, truth.flow(), child, truth, Grade.EXACT)
        assert (owner.uid, owner.candidates[0].uid) == (os.getuid(), os.getuid())

    def test_tcp_over_ipv6(self, source: LinuxOwners, start: Start) -> None:
        for address in server("::1"):
            child, (truth,) = start(TCP_CHILD, address)
            check(source, truth.flow(), child, truth, Grade.EXACT)

    def test_tcp_v4_mapped(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start(TCP_CHILD, ("::ffff:127.0.0.1", server[1]))
        check(source, truth.flow(), child, truth, Grade.EXACT)

    def test_tcp_syn_sent(self, source: LinuxOwners, start: Start) -> None:
        with socket.socket() as listener, ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            stack.enter_context(
                socket.create_connection(listener.getsockname())
            )  # the queue is full
            code = """
a, = json.loads(sys.argv[1]); s = socket.socket(); s.setblocking(False); s.connect_ex(tuple(a))
time.sleep(0.05); tell(s, state=s.getsockopt(6, 11, 1)[0]); wait()"""
            child, (truth,) = start(code, listener.getsockname())
            assert child.said["state"] == 2  # TCP_SYN_SENT
            flow = truth.flow(remote=listener.getsockname())
            check(source, flow, child, truth, Grade.EXACT)

    @pytest.mark.parametrize("remote", [None, FAR])
    @pytest.mark.parametrize("local", [["", 0], ["127.0.0.1", 0]])
    def test_udp(
        self,
        source: LinuxOwners,
        start: Start,
        local: list[str | int],
        remote: tuple[str, int] | None,
    ) -> None:
        child, (truth,) = start(UDP_CHILD, local, remote)
        grade = Grade.EXACT if remote else Grade.WILDCARD
        flow = truth.flow("127.0.0.1" if truth.local[0] == "0.0.0.0" else None, FAR)
        check(source, flow, child, truth, grade)

    def test_udp_dual_stack(self, source: LinuxOwners, start: Start) -> None:
        code = "s = udp(['::', 0], None, socket.AF_INET6, v6only=0); tell(s); wait()"
        child, (truth,) = start(code)
        check(source, truth.flow("127.0.0.1", FAR), child, truth, Grade.WILDCARD)

    def test_udp_v4_mapped_and_connected(self, source: LinuxOwners, start: Start) -> None:
        code = "s = udp(None, ['::ffff:127.0.0.9', 9], socket.AF_INET6); tell(s); wait()"
        child, (truth,) = start(code)
        check(source, truth.flow(), child, truth, Grade.EXACT)

    def test_udp_v6only_is_not_the_sender_of_ipv4(self, source: LinuxOwners, start: Start) -> None:
        code = "s = udp(['::', 0], None, socket.AF_INET6, v6only=1); tell(s); wait()"
        _, (truth,) = start(code)
        assert ask(source, truth.flow("127.0.0.1", FAR)).grade == Grade.ABSENT

    def test_connected_and_unconnected_share_a_port(
        self, source: LinuxOwners, start: Start
    ) -> None:
        plain, (wild,) = start(SHARED_PORT_CHILD, ["127.0.0.1", 0], None)
        others = [start(SHARED_PORT_CHILD, wild.local, ["127.0.0.9", port]) for port in (7, 8)]
        for child, (truth,) in others:
            check(source, truth.flow(), child, truth, Grade.EXACT)
        check(source, wild.flow(remote=("127.0.0.9", 6)), plain, wild, Grade.WILDCARD)

    def test_one_address_two_remotes(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = f"l, r = json.loads(sys.argv[1]); s = tcp(r, local=l, reuse=({socket.SO_REUSEADDR},)); tell(s); wait()"
        for second in server_again():
            one, (first_truth,) = start(code, ["127.0.0.1", 0], server)
            two, (second_truth,) = start(code, first_truth.local, second)
            check(source, first_truth.flow(), one, first_truth, Grade.EXACT)
            check(source, second_truth.flow(), two, second_truth, Grade.EXACT)

    def test_two_addresses_one_port(self, source: LinuxOwners, start: Start) -> None:
        one, (first,) = start(UDP_CHILD, ["127.0.0.2", 0], None)
        two, (second,) = start(UDP_CHILD, ["127.0.0.3", first.local[1]], None)
        check(source, first.flow(remote=FAR), one, first, Grade.WILDCARD)
        check(source, second.flow(remote=FAR), two, second, Grade.WILDCARD)
        assert ask(source, second.flow("127.0.0.4", FAR)).grade == Grade.ABSENT

    @pytest.mark.parametrize("interface", [0, 1])
    def test_a_listener_is_not_the_owner_of_a_flow(
        self, source: LinuxOwners, server: tuple[str, int], interface: int
    ) -> None:
        source.interface = interface
        flow = FlowKey(TCP, LOOPBACK, server[1], NOWHERE, 9)
        owner = source.quick(flow)
        assert owner is not None
        assert (owner.grade, owner.candidates) == (Grade.ABSENT, ())
        assert ask(source, flow).process is None

    def test_a_device_that_is_known(self, source: LinuxOwners, start: Start) -> None:
        code = "s = udp(); s.setsockopt(1, 25, b'lo'); s.bind(('127.0.0.1', 0)); tell(s); wait()"
        child, (truth,) = start(code)
        source.interface = socket.if_nametoindex("lo")
        check(source, truth.flow(remote=FAR), child, truth, Grade.WILDCARD)
        source.interface = 4242
        assert ask(source, truth.flow(remote=FAR)).grade == Grade.ABSENT

    def test_closed_by_its_process(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = (
            "a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait(); s.close(); tell(); wait()"
        )
        child, (truth,) = start(code, server)
        child.say()
        child.hear()
        owner = source.quick(truth.flow())  # FIN_WAIT2: nobody closes the other end
        assert owner is not None
        assert (owner.grade, owner.candidates, owner.uid) == (Grade.CLOSED, (), None)
        assert owner.cookie == truth.cookie

    def test_not_accepted_yet(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        _, (truth,) = start(TCP_CHILD, server)
        flow = truth.flow()
        other_end = FlowKey(TCP, flow.remote, flow.remote_port, flow.local, flow.local_port)
        owner = ask(source, other_end)
        assert (owner.grade, owner.uid, owner.process) == (Grade.KERNEL, None, None)


def server_again() -> Iterator[tuple[str, int]]:
    yield from server()


@pytest.fixture
def other_python(tmp_path: Path) -> str:
    """Copy the interpreter: the same code run by another executable."""
    path = tmp_path / "otherpython"
    shutil.copy(os.path.realpath(sys.executable), path)
    return str(path)


class TestTies:
    def test_two_programs_on_one_port_are_ambiguous(
        self, source: LinuxOwners, start: Start, other_python: str
    ) -> None:
        one, (truth,) = start(SHARED_PORT_CHILD, ["127.0.0.1", 0], None)
        two, _ = start(SHARED_PORT_CHILD, truth.local, None, executable=other_python)
        for port in range(1, 20):  # the kernel's own choice varies with the remote end
            owner = ask(source, truth.flow(remote=("127.0.0.9", port)))
            assert owner.grade == Grade.AMBIGUOUS
            assert set(pids(owner)) == {one.pid, two.pid}
            assert owner.process is None

    def test_one_program_twice_is_no_doubt_about_the_program(
        self, source: LinuxOwners, start: Start
    ) -> None:
        port = free_udp_port()
        children = [start(SHARED_PORT_CHILD, ["127.0.0.1", port], None) for _ in range(2)]
        owner = ask(source, children[0][1][0].flow(remote=FAR))
        assert owner.grade == Grade.WILDCARD
        assert set(pids(owner)) == {child.pid for child, _ in children}
        assert "2 sockets" in owner.detail

    def test_one_interpreter_with_two_scripts_is_ambiguous(
        self, source: LinuxOwners, start: Start
    ) -> None:
        _, (truth,) = start(SHARED_PORT_CHILD, ["127.0.0.1", 0], None)
        start(SHARED_PORT_CHILD + " # another", truth.local, None)
        assert ask(source, truth.flow(remote=FAR)).grade == Grade.AMBIGUOUS

    def test_a_wildcard_beside_a_bound_socket_may_be_the_sender(
        self, source: LinuxOwners, start: Start, other_python: str
    ) -> None:
        bound, (truth,) = start(SHARED_PORT_CHILD, ["127.0.0.1", 0], None)
        start(SHARED_PORT_CHILD, ["", truth.local[1]], None, executable=other_python)
        owner = ask(source, truth.flow(remote=FAR))
        assert owner.grade == Grade.AMBIGUOUS
        assert pids(owner)[0] == bound.pid

    def test_two_sockets_of_one_process(self, source: LinuxOwners, start: Start) -> None:
        code = f"s = udp(['127.0.0.1', 0], reuse={REUSE}); t = udp(s.getsockname(), reuse={REUSE}); tell(s, t); wait()"
        child, truths = start(code)
        owner = ask(source, truths[0].flow(remote=FAR))
        assert (owner.grade, pids(owner)) == (Grade.WILDCARD, [child.pid])


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


FORK = """
a, = json.loads(sys.argv[1]); s = tcp(a); r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w); os.read(r, 1); tell(s, role='child'); os.read(0, 1); os._exit(0)
tell(s, child=child); wait(); os.write(w, b'x'); os._exit(0)
"""


class TestSharing:
    def test_parent_and_child_hold_the_socket(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start(FORK, server)
        both = [child.pid, child.said["child"]]
        for _ in range(100):
            owner = ask(source, truth.flow())
            assert (owner.grade, pids(owner)) == (Grade.EXACT, both)
        for _ in range(20):
            with LinuxOwners() as cold:
                assert pids(ask(cold, truth.flow())) == both

    def test_the_child_remains(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start(FORK, server)
        grandchild = child.said["child"]
        ask(source, truth.flow())
        child.say()
        child.hear()
        child.process.wait()
        try:
            for _ in range(2):
                owner = ask(source, truth.flow())
                assert (owner.grade, pids(owner)) == (Grade.EXACT, [grandchild])
        finally:
            os.kill(grandchild, 9)

    def test_a_remembered_process_does_not_hide_a_sharing_child(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait(); t = tcp(a)
child = os.fork()
if child == 0: time.sleep(60); os._exit(0)
tell(t, child=child); wait(); os.kill(child, 9)"""
        child, (truth,) = start(code, server)
        ask(source, truth.flow())
        child.say()
        (second,) = child.hear()
        assert set(pids(ask(source, second.flow()))) == {child.pid, child.said["child"]}
        child.say()
        child.process.wait()

    def test_passed_to_another_process(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        ours, theirs = socket.socketpair()
        receiver_code = """
n, = json.loads(sys.argv[1]); u = socket.socket(fileno=n)
_, fds, _, _ = socket.recv_fds(u, 1, 1); s = socket.socket(fileno=fds[0]); tell(s); wait()"""
        sender_code = """
n, a = json.loads(sys.argv[1]); u = socket.socket(fileno=n); s = tcp(a)
socket.send_fds(u, [b'x'], [s.fileno()]); s.close(); tell(); wait()"""
        with ours, theirs:
            start(sender_code, ours.fileno(), server, inherit=(ours.fileno(),))
            receiver, (truth,) = start(receiver_code, theirs.fileno(), inherit=(theirs.fileno(),))
        check(source, truth.flow(), receiver, truth, Grade.EXACT)

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
        assert pids(dict(source.walk([flow]))[flow]) == [opener, child.pid]
        assert pids(ask(source, flow)) == [opener, child.pid]
        with LinuxOwners() as cold:
            assert pids(ask(cold, flow)) == [child.pid, opener]
        child.say()
        child.process.wait()

    def test_programs_that_hand_sockets_on_come_last(self) -> None:
        started = [
            Process(1, 1, "/sbin/init"),
            Process(7, 5, "/usr/lib/systemd/systemd"),
            Process(8, 9, "/usr/bin/late"),
            Process(9, 8, "/usr/bin/early"),
        ]
        order = sorted(started, key=age)
        assert [process.pid for process in order] == [9, 8, 1, 7]

    def test_exec_keeps_the_socket(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, other_python: str
    ) -> None:
        code = """
a, exe = json.loads(sys.argv[1]); s = tcp(a); s.set_inheritable(True); tell(s); wait()
os.execv(exe, ['x', '-c', 'print("{\\\\"sockets\\\\": []}", flush=True); input()'])"""
        child, (truth,) = start(code, server, other_python)
        check(source, truth.flow(), child, truth, Grade.EXACT)
        pid = child.pid
        child.say()
        child.hear()
        for owner in (ask(source, truth.flow()), ask(source, truth.flow())):
            assert [(p.pid, p.path) for p in owner.candidates] == [(pid, other_python)]

    def test_exec_that_closes_the_socket(self, source: LinuxOwners, start: Start) -> None:
        code = """
s = udp(['127.0.0.1', 0]); tell(s); wait()
os.execv('/bin/sh', ['sh', '-c', 'echo "{\\\\"sockets\\\\": []}"; read x'])"""
        child, (truth,) = start(code)
        check(source, truth.flow(remote=FAR), child, truth, Grade.WILDCARD)
        child.say()
        child.hear()
        assert ask(source, truth.flow(remote=FAR)).grade == Grade.ABSENT


SYS_EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93}.get(os.uname().machine)


class TestThreads:
    @pytest.mark.skipif(SYS_EXIT is None, reason="number of exit(2) unknown here")
    def test_the_first_thread_has_exited(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = f"""
a, = json.loads(sys.argv[1])
def work():
    time.sleep(0.2); s = tcp(a); tell(s); time.sleep(60)
threading.Thread(target=work).start(); libc.syscall({SYS_EXIT}, 0)"""
        child, (truth,) = start(code, server)
        for owner in (ask(source, truth.flow()), ask(source, truth.flow())):
            assert (owner.grade, pids(owner)) == (Grade.EXACT, [child.pid])
            assert owner.candidates[0].path == os.path.realpath(sys.executable)

    def test_a_thread_with_its_own_descriptors(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = """
a, = json.loads(sys.argv[1])
def work():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    s = tcp(a); tell(s); time.sleep(60)
threading.Thread(target=work, daemon=True).start(); wait()"""
        child, (truth,) = start(code, server)
        check(source, truth.flow(), child, truth, Grade.EXACT)


class TestExecutables:
    def test_deleted(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, other_python: str
    ) -> None:
        child, (truth,) = start(TCP_CHILD, server, executable=other_python)
        Path(other_python).unlink()
        (process,) = ask(source, truth.flow()).candidates
        assert (process.pid, process.path, process.deleted) == (child.pid, other_python, True)
        assert process.name == "otherpython"

    def test_called_deleted(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, other_python: str
    ) -> None:
        path = other_python + " (deleted)"
        Path(other_python).rename(path)
        _, (truth,) = start(TCP_CHILD, server, executable=path)
        (process,) = ask(source, truth.flow()).candidates
        assert (process.path, process.deleted) == (path, False)


class TestTime:
    ROUNDS = 300

    @pytest.mark.parametrize("kind", ["udp", "tcp"])
    def test_a_port_that_changes_hands_is_never_answered_wrongly(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, kind: Any
    ) -> None:
        code = f"""
kind, a, port, rounds = json.loads(sys.argv[1])
for n in range(rounds):
    pid = os.fork()
    if pid == 0:
        if kind == 'udp': s = udp(['127.0.0.1', port])
        else:
            s = tcp(a, local=['127.0.0.1', port], reuse=({socket.SO_REUSEADDR},))
            s.setsockopt(1, 13, b'\\1\\0\\0\\0\\0\\0\\0\\0')  # SO_LINGER 0: reset, no TIME_WAIT
        tell(s); wait_byte = os.read(0, 1); os._exit(0)
    os.waitpid(pid, 0)
tell()
"""
        port = free_udp_port()
        child, truths = start(code, kind, server, port, self.ROUNDS)
        wrong = right = 0
        for _ in range(self.ROUNDS):
            (truth,) = truths
            owner = ask(source, truth.flow(remote=truth.remote or FAR))
            if owner.process is not None:
                right += owner.process.pid == child.pid
                wrong += owner.process.pid != child.pid
            assert child.process.stdin is not None
            child.process.stdin.write("x")
            child.process.stdin.flush()
            truths = child.hear()
        assert (wrong, right) == (0, self.ROUNDS)

    def test_a_process_that_exits(self, source: LinuxOwners, start: Start) -> None:
        child, (truth,) = start(UDP_CHILD, ["127.0.0.1", 0], None)
        assert ask(source, truth.flow(remote=FAR)).process is not None
        child.process.kill()
        child.process.wait()
        owner = source.quick(truth.flow(remote=FAR))
        assert owner is not None
        assert owner.grade == Grade.ABSENT

    def test_gone_between_the_kernels_answer_and_the_search(
        self, source: LinuxOwners, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child, (truth,) = start(UDP_CHILD, ["127.0.0.1", 0], None)
        asked = source._far.sockets

        def then_exit(flow: FlowKey, interface: int = 0) -> list[SocketRow]:
            rows = asked(flow, interface)
            child.process.kill()
            child.process.wait()
            return rows

        monkeypatch.setattr(source._far, "sockets", then_exit)
        flow = truth.flow(remote=FAR)
        owner = dict(source.walk([flow]))[flow]
        assert (owner.grade, owner.candidates, owner.uid) == (Grade.CLOSED, (), os.getuid())

    def test_gone_between_found_and_described(
        self, source: LinuxOwners, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child, (truth,) = start(UDP_CHILD, ["127.0.0.1", 0], None)

        def exit_first(process: ProcessDir, *arguments: Any) -> Process | None:
            if process.pid == child.pid:
                child.process.kill()
                child.process.wait()
            return module_describe(process, *arguments)

        module_describe = describe
        monkeypatch.setattr(module, "describe", exit_first)
        owner = ask(source, truth.flow(remote=FAR))
        assert owner.candidates == ()
        assert owner.grade in (Grade.UID_ONLY, Grade.CLOSED)

    def test_quick_and_walk_at_the_same_time(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(100)]; tell(*s); wait()"""
        children = [start(code, server) for _ in range(3)]
        truth = {t.flow(): child.pid for child, truths in children for t in truths}
        wrong: list[object] = []

        def walk() -> None:
            try:
                for _ in range(10):
                    for flow, owner in source.walk(list(truth)):
                        if pids(owner) != [truth[flow]]:
                            wrong.append((flow, owner))
            except Exception as error:
                wrong.append(error)

        worker = threading.Thread(target=walk)
        worker.start()
        while worker.is_alive():
            for flow, pid in truth.items():
                owner = source.quick(flow)
                if owner is not None and pids(owner) != [pid]:
                    wrong.append((flow, owner))
        worker.join()
        assert wrong == []


class TestPrivileges:
    @pytest.mark.root
    def test_a_socket_made_as_root_by_a_process_that_then_dropped_it(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = "a, = json.loads(sys.argv[1]); s = tcp(a); os.setuid(65534); tell(s); wait()"
        child, (truth,) = start(code, server)
        owner = check(source, truth.flow(), child, truth, Grade.EXACT)
        assert (owner.uid, owner.candidates[0].uid) == (0, 65534)

    @pytest.mark.root
    @pytest.mark.parametrize("hidepid", [None, 1, 2])
    def test_refused_to_look(
        self, server: tuple[str, int], start: Start, hidepid: int | None
    ) -> None:
        _, (truth,) = start(TCP_CHILD, server)
        code = f"""
import ctypes, os, sys
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import FlowKey
if {hidepid}:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid={hidepid}") == 0
os.setgroups([]); os.setgid(65534); os.setuid(65534)
flow = FlowKey(*{tuple(truth.flow())!r})
with LinuxOwners() as source:
    owner = source.quick(flow) or dict(source.walk([flow]))[flow]
print(owner.grade, owner.uid, owner.candidates)"""
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.stdout.split() == ["denied", "0", "()"], said.stderr

    @pytest.mark.root
    def test_tables_that_can_be_listed_and_not_read(
        self, server: tuple[str, int], start: Start
    ) -> None:
        """The same user, who lacks a capability that the holder has."""
        _, (truth,) = start(TCP_CHILD, server)
        code = f"""
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import FlowKey
flow = FlowKey(*{tuple(truth.flow())!r})
with LinuxOwners() as source:
    owner = dict(source.walk([flow]))[flow]
print(owner.grade, owner.uid, owner.candidates)"""
        lesser = ["setpriv", "--bounding-set", "-sys_ptrace,-sys_time", sys.executable, "-c", code]
        said = subprocess.run(lesser, capture_output=True, text=True, check=False)
        assert said.stdout.split() == ["denied", "0", "()"], said.stderr


class TestFindProcess:
    def test_a_listener(self, server: tuple[str, int]) -> None:
        for ip in ("127.0.0.1", "", "*"):
            owner = find_process("tcp", ip, server[1])
            assert (owner.grade, pids(owner)) == (Grade.EXACT, [os.getpid()])

    def test_a_connection(self, source: LinuxOwners, server: tuple[str, int], start: Start) -> None:
        child, (truth,) = start(TCP_CHILD, server)
        for ip in (truth.local[0], ""):
            for remote in (None, truth.remote):
                owner = find_process("tcp", ip, truth.local[1], remote, source=source)
                assert (owner.grade, pids(owner)) == (Grade.EXACT, [child.pid])

    def test_udp(self, source: LinuxOwners, start: Start, other_python: str) -> None:
        one, (truth,) = start(SHARED_PORT_CHILD, ["", 0], None)
        port = truth.local[1]
        assert pids(find_process("udp", "", port, source=source)) == [one.pid]
        owner = find_process("udp", "127.0.0.1", port, source=source)
        assert (owner.grade, pids(owner)) == (Grade.WILDCARD, [one.pid])
        two, _ = start(SHARED_PORT_CHILD, ["", port], None, executable=other_python)
        owner = find_process("udp", "", port, source=source)
        assert (owner.grade, set(pids(owner))) == (Grade.AMBIGUOUS, {one.pid, two.pid})

    def test_dual_stack_listener_asked_by_ipv4(self, source: LinuxOwners) -> None:
        with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
            owner = find_process("tcp", "127.0.0.1", listener.getsockname()[1], source=source)
            assert pids(owner) == [os.getpid()]

    def test_nothing_there(self, source: LinuxOwners) -> None:
        assert find_process("udp", "", free_udp_port(), source=source).grade == Grade.ABSENT
        assert find_process("tcp", "192.0.2.1", 1, ("192.0.2.2", 2)).grade == Grade.ABSENT

    @pytest.mark.parametrize("question", [("icmp", "", 1), ("tcp", "nonsense", 1)])
    def test_what_cannot_be_asked(
        self, source: LinuxOwners, question: tuple[str, str, int]
    ) -> None:
        with pytest.raises(TunOwnerError):
            find_process(*question, source=source)


class TestBatches:
    def test_many_flows_of_many_processes(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = "a, = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(40)]; tell(*s); wait()"
        children = [start(code, server) for _ in range(5)]
        truth = {t.flow(): child.pid for child, truths in children for t in truths}
        unknown = FlowKey(UDP, LOOPBACK, free_udp_port(), NOWHERE, 1)
        answers = dict(source.walk([*truth, unknown]))
        assert answers.pop(unknown).grade == Grade.ABSENT
        assert {flow: pids(owner) for flow, owner in answers.items()} == {
            flow: [pid] for flow, pid in truth.items()
        }
        assert all(source.quick(flow) is not None for flow in truth)


def test_memory_is_bounded() -> None:
    table: Lru[int, int] = Lru(3)
    for key in range(10):
        table.put(key, key + 1)
        table.get(7)
    assert [key for key, _ in table.newest()] == [7, 9, 8]
    assert len(table) == 3


def test_a_false_memory_is_slow_and_not_wrong(
    source: LinuxOwners, server: tuple[str, int], start: Start
) -> None:
    child, (truth,) = start(TCP_CHILD, server)
    memory: Memory = source._memory
    memory.settle(truth.cookie, (Holder(os.getpid(), b"fd/0"), Holder(2**22 + 1, b"fd/3")))
    check(source, truth.flow(), child, truth, Grade.EXACT)


def test_the_place_that_was_found_is_remembered_not_the_last_that_was_read(
    source: LinuxOwners, server: tuple[str, int], start: Start
) -> None:
    """The next socket of a process is mostly next to the one found."""
    code = """
a, = json.loads(sys.argv[1]); s = tcp(a); t = socket.socket(fileno=os.dup2(s.fileno(), 70)); s.close()
tell(t); wait()"""
    child, (truth,) = start(code, server)
    dict(source.walk([truth.flow()]))
    assert dict(source._memory._recent.newest())[child.pid] == 70
