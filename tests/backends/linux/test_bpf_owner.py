"""Who opened the flow, as noted by eBPF: every child tells its own truth, none may be wrong."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.test_owners import (
    FAR,
    _server,
    free_udp_port,
    other_python,
    pids,
    start,
)
from tests.backends.owner_contract import ask
from tunowner.backends.linux.bpf.loader import OwnerMap
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import TCP, UDP, FlowKey, Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.backends.linux.children import Child
    from tests.backends.linux.test_owners import Start

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

__all__ = ["_server", "other_python", "start"]

pytestmark = pytest.mark.root

LO = socket.if_nametoindex("lo")
LOOPBACK = bytes((127, 0, 0, 1))
SENDER = (
    "l, = json.loads(sys.argv[1]); s = udp(l); s.sendto(b'x', ('127.0.0.9', 9)); tell(s); wait()"
)


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made:
        yield made


@pytest.fixture
def source(cgroup: Path) -> Iterator[LinuxOwners]:
    with LinuxOwners(interface=LO, bpf=OwnerMap(cgroup)) as made:
        yield made


def is_by_ebpf(source: LinuxOwners, flow: FlowKey, pid: int, *, path: str | None = None) -> None:
    """Assert that `quick` names the process for certain, cold and warm."""
    for _ in range(2):
        source.quick(flow)  # the first may want to know the user's name
        owner = source.quick(flow) or dict(source.walk([flow]))[flow]
        assert (owner.backend, owner.grade) == ("ebpf", Grade.EXACT), owner
        assert owner.process is not None
        assert owner.process.pid == pid
        assert path is None or owner.process.path == path


def end(child: Child) -> None:
    child.process.kill()
    child.process.wait()


class TestUser:
    """The one who uses the socket, not the one who made it."""

    def test_made_before_fork_and_exec(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, other_python: str
    ) -> None:
        code = """
a, exe = json.loads(sys.argv[1]); s = socket.socket(); s.set_inheritable(True)
child = os.fork()
if child == 0:
    os.execv(exe, ['x', '-c', f'''
import socket, time
s = socket.socket(fileno={s.fileno()}); s.connect({tuple(a)!r}); time.sleep(60)'''])
while True:
    try: s.getpeername(); break
    except OSError: time.sleep(0.01)
tell(s, child=child); wait(); os.kill(child, 9)"""
        parent, (truth,) = start(code, server, other_python)
        user = parent.said["child"]
        is_by_ebpf(source, truth.flow(), user, path=other_python)
        assert pids(ask(source, truth.flow())) == [user, parent.pid]
        parent.say()
        parent.process.wait()

    @pytest.mark.parametrize("then", ["", "s.close(); "])
    def test_activation_names_who_sends(self, source: LinuxOwners, start: Start, then: str) -> None:
        receiver_code = """
n, = json.loads(sys.argv[1]); u = socket.socket(fileno=n)
_, fds, _, _ = socket.recv_fds(u, 1, 1); s = socket.socket(fileno=fds[0])
s.sendto(b'x', ('127.0.0.9', 9)); tell(s); wait()"""
        sender_code = f"""
n, = json.loads(sys.argv[1]); u = socket.socket(fileno=n); s = udp(['127.0.0.1', 0])
socket.send_fds(u, [b'x'], [s.fileno()]); {then}tell(); wait()"""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            start(sender_code, ours.fileno(), inherit=(ours.fileno(),))
            receiver, (truth,) = start(receiver_code, theirs.fileno(), inherit=(theirs.fileno(),))
        is_by_ebpf(source, truth.flow(remote=FAR), receiver.pid)

    def test_each_of_two_that_share_a_socket_has_its_own_flows(
        self, source: LinuxOwners, start: Start
    ) -> None:
        code = """
s = udp(['127.0.0.1', 0]); s.sendto(b'x', ('127.0.0.9', 9)); child = os.fork()
if child == 0: s.sendto(b'x', ('127.0.0.9', 10)); tell(s); time.sleep(60); os._exit(0)
wait(); tell(child=child); wait(); os.kill(child, 9)"""
        parent, (truth,) = start(code)
        child = parent.pid
        parent.say()
        parent.hear()
        assert child == parent.said["child"]
        is_by_ebpf(source, truth.flow(remote=("127.0.0.9", 9)), parent.pid)
        is_by_ebpf(source, truth.flow(remote=("127.0.0.9", 10)), child)
        parent.say()
        parent.process.wait()

    def test_connected_udp(self, source: LinuxOwners, start: Start) -> None:
        code = "s = udp(None, ['127.0.0.9', 9]); s.send(b'x'); tell(s); wait()"
        child, (truth,) = start(code)
        is_by_ebpf(source, truth.flow(), child.pid)

    @pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
    def test_v4_mapped(
        self, source: LinuxOwners, server: tuple[str, int], start: Start, kind: str
    ) -> None:
        code = f"""
a, = json.loads(sys.argv[1]); s = socket.socket(socket.AF_INET6, socket.{kind})
s.connect(tuple(a)); tell(s); wait()"""
        child, (truth,) = start(code, ("::ffff:127.0.0.1", server[1]))
        is_by_ebpf(source, truth.flow(), child.pid)

    @pytest.mark.parametrize(
        ("family", "target"),
        [("AF_INET", "127.0.0.9"), ("AF_INET6", "::1"), ("AF_INET6", "::ffff:127.0.0.9")],
    )
    @pytest.mark.parametrize("state", ["lives", "exited"])
    def test_sendto(
        self, source: LinuxOwners, start: Start, family: str, target: str, state: str
    ) -> None:
        code = f"""
s = udp(None, None, socket.{family}); s.sendto(b'x', ('{target}', 9)); tell(s); wait()"""
        child, (truth,) = start(code)
        local = "::1" if target == "::1" else "127.0.0.1"
        if state == "exited":
            end(child)
        is_by_ebpf(source, truth.flow(local, (target, 9)), child.pid)

    def test_an_accepted_socket_is_left_to_proc(self, source: LinuxOwners, start: Start) -> None:
        code = """
l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())
s = l.accept()[0]; tell(s); wait()"""
        child, (truth,) = start(code)
        owner = ask(source, truth.flow())
        assert (owner.grade, owner.backend, pids(owner)) == (Grade.EXACT, "procfs", [child.pid])

    def test_older_than_the_hooks(
        self, cgroup: Path, server: tuple[str, int], start: Start
    ) -> None:
        child, (truth,) = start("a, = json.loads(sys.argv[1]); s = tcp(a); tell(s); wait()", server)
        with LinuxOwners(interface=LO, bpf=OwnerMap(cgroup)) as late:
            owner = ask(late, truth.flow())
        assert (owner.grade, owner.backend, pids(owner)) == (Grade.EXACT, "procfs", [child.pid])

    def test_the_effective_user(self, source: LinuxOwners, start: Start) -> None:
        code = "os.seteuid(65534); s = udp(); s.sendto(b'x', ('127.0.0.9', 9)); tell(s); wait()"
        child, (truth,) = start(code)
        end(child)
        flow = truth.flow("127.0.0.1", FAR)
        is_by_ebpf(source, flow, child.pid)
        owner = ask(source, flow)
        assert (owner.uid, owner.candidates[0].uid) == (65534, 65534)


class TestNamespaces:
    def test_a_process_in_a_pid_namespace_has_the_pid_of_the_host(
        self, source: LinuxOwners, server: tuple[str, int], start: Start
    ) -> None:
        code = """
a, = json.loads(sys.argv[1]); assert libc.unshare(0x20000000) == 0  # CLONE_NEWPID
child = os.fork()
if child == 0: s = tcp(a); tell(s); time.sleep(60); os._exit(0)
wait(); tell(child=child); wait(); os.kill(child, 9)"""
        parent, (truth,) = start(code, server)
        assert parent.pid == 1
        parent.say()
        parent.hear()
        is_by_ebpf(source, truth.flow(), parent.said["child"])
        parent.say()
        parent.process.wait()

    def test_one_tuple_in_two_network_namespaces(self, source: LinuxOwners, start: Start) -> None:
        elsewhere = """
import fcntl, struct
assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET
t = socket.socket(); fcntl.ioctl(t, 0x8914, struct.pack('16sH14x', b'lo', 1))  # SIOCSIFFLAGS, up
"""
        local = ["127.0.0.1", free_udp_port()]
        stranger, (truth,) = start(elsewhere + SENDER, local)
        end(stranger)
        flow = truth.flow(remote=FAR)
        assert ask(source, flow).grade == Grade.ABSENT
        native, _ = start(SENDER, local)
        end(native)
        is_by_ebpf(source, flow, native.pid)


class TestExec:
    def test_sent_and_then_another_program(self, source: LinuxOwners, start: Start) -> None:
        code = """
s = udp(['127.0.0.1', 0]); s.set_inheritable(True); s.sendto(b'x', ('127.0.0.9', 9)); tell(s)
os.execv('/bin/sh', ['sh', '-c', 'read x'])"""
        child, (truth,) = start(code)
        wait_for_exec(child)
        is_by_ebpf(source, truth.flow(remote=FAR), child.pid)
        (process,) = ask(source, truth.flow(remote=FAR)).candidates
        assert process.path in (None, os.path.realpath(sys.executable))

    def test_what_the_new_program_sends_is_its_own(
        self, source: LinuxOwners, start: Start, other_python: str
    ) -> None:
        code = """
exe, = json.loads(sys.argv[1])
s = udp(['127.0.0.1', 0]); s.set_inheritable(True); s.sendto(b'x', ('127.0.0.9', 9)); tell(s)
os.execv(exe, ['x', '-c', f'''
import socket; s = socket.socket(fileno={s.fileno()}); s.sendto(b'x', ('127.0.0.9', 10))
print('{{"sockets": []}}', flush=True); input()'''])"""
        child, (truth,) = start(code, other_python)
        pid = child.pid
        child.hear()
        is_by_ebpf(source, truth.flow(remote=("127.0.0.9", 10)), pid, path=other_python)
        (process,) = ask(source, truth.flow(remote=FAR)).candidates
        assert process.path != other_python

    def test_connecting_and_then_another_program(self, source: LinuxOwners, start: Start) -> None:
        code = """
a, = json.loads(sys.argv[1]); s = socket.socket(); s.setblocking(False); s.set_inheritable(True)
s.connect_ex(tuple(a)); tell(s); os.execv('/bin/sh', ['sh', '-c', 'read x'])"""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            with socket.create_connection(listener.getsockname()):  # the queue is full
                child, (truth,) = start(code, listener.getsockname())
                wait_for_exec(child)
                flow = truth.flow(remote=listener.getsockname())
                is_by_ebpf(source, flow, child.pid)
                (process,) = ask(source, flow).candidates
        assert process.path in (None, os.path.realpath(sys.executable))

    def test_race(self, source: LinuxOwners, start: Start) -> None:
        code = """
for n in range(json.loads(sys.argv[1])[0]):
    pid = os.fork()
    if pid == 0:
        s = udp(['127.0.0.1', 0]); s.sendto(b'x', ('127.0.0.9', 1000 + n)); tell(s)
        os.execv('/bin/sleep', ['sleep', '0.002'])
    os.waitpid(pid, 0)
tell()"""
        child, truths = start(code, 200)
        sleep = os.path.realpath("/bin/sleep")
        for port in range(1000, 1200):
            owner = ask(source, truths[0].flow(remote=("127.0.0.9", port)))
            assert owner.process is not None
            assert (owner.backend, owner.process.pid) == ("ebpf", child.pid)
            assert owner.process.path != sleep
            truths = child.hear()


def wait_for_exec(child: Child) -> None:
    deadline = time.monotonic() + 5
    while "python" in str(Path(f"/proc/{child.pid}/exe").readlink()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestGone:
    """Named although nothing is left of the process."""

    def test_its_program_by_where_it_was_seen(
        self, source: LinuxOwners, start: Start, other_python: str
    ) -> None:
        first, (truth,) = start(SENDER, ["127.0.0.1", 0], executable=other_python)
        is_by_ebpf(source, truth.flow(remote=FAR), first.pid, path=other_python)
        second, (truth,) = start(SENDER, ["127.0.0.1", 0], executable=other_python)
        end(second)
        is_by_ebpf(source, truth.flow(remote=FAR), second.pid, path=other_python)

    def test_its_program_by_name_in_path(
        self,
        source: LinuxOwners,
        start: Start,
        tmp_path: Path,
        other_python: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        child, (truth,) = start(SENDER, ["127.0.0.1", 0], executable=other_python)
        end(child)
        flow = truth.flow(remote=FAR)
        owner = ask(source, flow)
        assert (owner.candidates[0].path, owner.detail) == (None, "otherpython has exited")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        is_by_ebpf(source, flow, child.pid, path=other_python)

    def test_never_by_a_file_that_took_its_place(
        self,
        source: LinuxOwners,
        start: Start,
        tmp_path: Path,
        other_python: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        child, (truth,) = start(SENDER, ["127.0.0.1", 0], executable=other_python)
        end(child)
        Path(other_python).unlink()
        shutil.copy("/bin/sh", other_python)  # often with the same inode
        assert ask(source, truth.flow(remote=FAR)).candidates[0].path is None

    @pytest.mark.parametrize("protocol", [TCP, UDP])
    def test_connected_and_closed(self, source: LinuxOwners, start: Start, protocol: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            code = f"""
a, = json.loads(sys.argv[1]); s = {"tcp(a)" if protocol == TCP else "udp(None, a)"}
{protocol} == 6 and s.setsockopt(1, 13, b'\\1\\0\\0\\0\\0\\0\\0\\0')  # SO_LINGER 0: no TIME_WAIT
s.send(b'x'); tell(s); wait()"""
            child, (truth,) = start(code, listener.getsockname())
            end(child)
            is_by_ebpf(source, truth.flow(), child.pid)

    def test_connected_anew(self, source: LinuxOwners, start: Start) -> None:
        code = """
s = udp(None, ['127.0.0.9', 9]); s.send(b'x'); tell(s); s.connect(('127.0.0.9', 10)); tell(s); wait()"""
        child, (truth,) = start(code)
        (later,) = child.hear()
        is_by_ebpf(source, truth.flow(), child.pid)
        owner = ask(source, later.flow())  # it had a port by then, which others may share
        assert (owner.grade, pids(owner)) == (Grade.EXACT, [child.pid])

    def test_closed_by_another_than_the_connector(self, source: LinuxOwners, start: Start) -> None:
        code = """
s = udp(None, ['127.0.0.9', 9]); r, w = os.pipe(); child = os.fork()
if child == 0: os.read(r, 1); s.send(b'x'); s.close(); tell(); time.sleep(60)
tell(s, child=child); s.close(); os.write(w, b'x'); wait(); os.kill(child, 9)"""
        parent, (truth,) = start(code)
        pid = parent.pid
        parent.hear()
        owner = ask(source, truth.flow())
        assert (owner.grade, owner.process, pids(owner)) == (Grade.AMBIGUOUS, None, [pid])
        parent.say()
        parent.process.wait()

    def test_without_btf_nobody_is_named_who_has_gone(self, cgroup: Path, start: Start) -> None:
        with LinuxOwners(interface=LO, bpf=OwnerMap(cgroup, reads_tasks=False)) as source:
            child, (truth,) = start(SENDER, ["127.0.0.1", 0])
            flow = truth.flow(remote=FAR)
            owner = ask(source, flow)
            assert (owner.grade, pids(owner)) == (Grade.WILDCARD, [child.pid])
            end(child)
            assert ask(source, flow).grade == Grade.ABSENT


class TestHandover:
    """One tuple, one program after the other: never the wrong one."""

    def test_at_once_is_ambiguous(self, source: LinuxOwners, start: Start) -> None:
        code = """
port, = json.loads(sys.argv[1])
for n in range(2):
    pid = os.fork()
    if pid == 0: s = udp(['127.0.0.1', port]); s.sendto(b'x', ('127.0.0.9', 9)); tell(s); os._exit(0)
    os.waitpid(pid, 0)
tell(); wait()"""
        child, (truth,) = start(code, free_udp_port())
        first = child.pid
        child.hear()
        second = child.pid
        child.hear()
        owner = ask(source, truth.flow(remote=FAR))
        assert (owner.grade, owner.process) == (Grade.AMBIGUOUS, None)
        assert pids(owner) == [second, first]

    def test_long_past_is_no_doubt(self, source: LinuxOwners, start: Start) -> None:
        local = ["127.0.0.1", free_udp_port()]
        first, _ = start(SENDER, local)
        end(first)
        time.sleep(0.5)
        second, (truth,) = start(SENDER, local)
        end(second)
        is_by_ebpf(source, truth.flow(remote=FAR), second.pid)

    def test_a_port_taken_over_by_one_that_has_not_sent(
        self, source: LinuxOwners, start: Start
    ) -> None:
        local = ["127.0.0.1", free_udp_port()]
        first, (truth,) = start(SENDER, local)
        end(first)
        start("l, = json.loads(sys.argv[1]); s = udp(l); tell(s); wait()", local)
        is_by_ebpf(source, truth.flow(remote=FAR), first.pid)

    def test_two_addresses_on_one_port(self, source: LinuxOwners, start: Start) -> None:
        port = free_udp_port()
        senders = [start(SENDER, [f"127.0.0.{n}", port]) for n in (2, 3)]
        for child, (truth,) in senders:
            is_by_ebpf(source, truth.flow(remote=FAR), child.pid)

    @pytest.mark.parametrize("linger", [0.0, 0.005])
    def test_a_thousand_rounds(self, source: LinuxOwners, start: Start, linger: float) -> None:
        code = """
port, rounds, linger = json.loads(sys.argv[1])
for n in range(rounds):
    pid = os.fork()
    if pid == 0:
        s = udp(['127.0.0.1', port]); s.sendto(b'x', ('127.0.0.9', 9)); tell(s)
        os.read(0, 1); time.sleep(linger); os._exit(0)
    os.waitpid(pid, 0)
tell()"""
        child, truths = start(code, free_udp_port(), 500, linger)
        named = 0
        while truths:
            owner = ask(source, truths[0].flow(remote=FAR))
            if owner.process is not None:
                named += 1
                assert owner.process.pid == child.pid
            else:
                assert owner.grade == Grade.AMBIGUOUS
                assert pids(owner)[0] == child.pid
            go_on(child)
            truths = child.hear()
        assert named >= 1


def go_on(child: Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.write("x")
    child.process.stdin.flush()


class TestMany:
    def test_a_thousand_senders_that_exit_at_once(self, source: LinuxOwners, start: Start) -> None:
        # To many addresses: two of them with the same port and remote would rightly be ambiguous.
        code = """
for number in range(json.loads(sys.argv[1])[0]):
    pid = os.fork()
    if pid == 0: s = udp(); s.sendto(b'x', (f'127.0.0.{10 + number % 200}', 9)); tell(s); os._exit(0)
    os.waitpid(pid, 0); tell()
tell()"""
        child, truths = start(code, 1000)
        right, numbers = 0, itertools.count()
        while truths:
            far = (f"127.0.0.{10 + next(numbers) % 200}", 9)
            pid, flow = child.pid, truths[0].flow("127.0.0.1", far)
            child.hear()  # it is gone
            owner = ask(source, flow)
            assert owner.process is None or owner.process.pid == pid
            right += owner.process is not None
            truths = child.hear()
        assert right >= 990

    def test_two_thousand_short_lived_tcp_clients(self, source: LinuxOwners, start: Start) -> None:
        code = """
a, rounds = json.loads(sys.argv[1])
for _ in range(rounds):
    pid = os.fork()
    if pid == 0: s = tcp(a); s.send(b'x'); tell(s); os._exit(0)
    os.waitpid(pid, 0); tell()
tell()"""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            threading.Thread(target=accept_all, args=(listener,), daemon=True).start()
            child, truths = start(code, listener.getsockname(), 2000)
            right = 0
            while truths:
                pid, flow = child.pid, truths[0].flow(remote=listener.getsockname())
                child.hear()  # it is gone
                owner = ask(source, flow)
                assert (owner.grade, pids(owner)) == (Grade.EXACT, [pid])
                right += 1
                truths = child.hear()
            assert right == 2000

    def test_more_sockets_than_the_map_has_room_for(self, cgroup: Path, start: Start) -> None:
        code = """
import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
s = [udp(None, ['127.0.0.9', 9]) for _ in range(6000)]; tell(*s); wait()"""
        with LinuxOwners(interface=LO, bpf=OwnerMap(cgroup, sockets=1024)) as source:
            child, truths = start(code)
            backends = set()
            for truth in (*truths[:20], *truths[-20:]):
                owner = ask(source, truth.flow())
                assert (owner.grade, pids(owner)) == (Grade.EXACT, [child.pid])
                backends.add(owner.backend)
            assert ask(source, truths[-1].flow()).backend == "ebpf"
            assert backends == {"ebpf", "procfs"}


def accept_all(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listener.accept()[0].close()
