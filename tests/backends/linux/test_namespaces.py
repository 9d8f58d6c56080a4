"""Sockets of other network namespaces, in ones made for the test."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.children import Child
from tunowner.backends.linux import namespaces
from tunowner.backends.linux.namespaces import find_anywhere, has_address, inside, other_namespaces
from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

THERE = "10.213.7.2"
SIX = "fd00:213:7::2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def names() -> Iterator[list[str]]:
    made = [f"tuo-own-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    for name in made:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", f"{THERE}/32", "dev", "lo")
        ip("-n", name, "addr", "add", f"{SIX}/128", "dev", "lo", "nodad")
    yield made
    for name in made:
        ip("netns", "del", name)


CODE = f"""
name, = json.loads(sys.argv[1])
n = os.open('/run/netns/' + name, 0); assert libc.setns(n, 0x40000000) == 0
s = socket.create_server(({THERE!r}, 0)); u = udp(['', 0]); v = udp([{SIX!r}, 0], None, socket.AF_INET6)
tell(s, u, v); wait()"""


@pytest.mark.root
class TestOtherNamespaces:
    def test_the_right_process(self, names: list[str]) -> None:
        with Child(CODE, names[0]) as child:
            tcp, udp, six = child.hear()
            owner = find_anywhere("tcp", THERE, tcp.local[1], None)
            assert (owner.grade, owner.cookie) == (Grade.EXACT, tcp.cookie)
            assert owner.process is not None
            assert owner.process.pid == child.pid
            assert "in network namespace net:[" in owner.detail
            owner = find_anywhere("udp", THERE, udp.local[1], None)
            assert (owner.grade, owner.cookie) == (Grade.WILDCARD, udp.cookie)
            owner = find_anywhere("udp", SIX, six.local[1], None)
            assert owner.process is not None
            assert owner.process.pid == child.pid

    @pytest.mark.usefixtures("names")
    def test_a_port_nobody_has_there(self) -> None:
        owner = find_anywhere("tcp", THERE, 1, None)
        assert (owner.grade, owner.candidates) == (Grade.ABSENT, ())

    def test_the_same_socket_in_two_namespaces_is_a_doubt(self, names: list[str]) -> None:
        with Child(CODE, names[0]) as one, ExitStack() as stack:
            tcp = one.hear()[0]
            code = CODE.replace(f"(({THERE!r}, 0))", f"(({THERE!r}, {tcp.local[1]}))")
            two = stack.enter_context(Child(code, names[1]))
            two.hear()
            owner = find_anywhere("tcp", THERE, tcp.local[1], None)
            assert (owner.grade, owner.process, owner.cookie) == (Grade.AMBIGUOUS, None, None)
            assert {it.pid for it in owner.candidates} == {one.pid, two.pid}

    @pytest.mark.usefixtures("names")
    def test_this_threads_namespace_stays(self) -> None:
        own = Path("/proc/thread-self/ns/net")
        before = own.readlink()
        seen = [inside(it, own.readlink) for it in other_namespaces()]
        assert len(set(seen)) == len(seen) >= 2
        assert before not in seen
        assert own.readlink() == before

    @pytest.mark.usefixtures("names")
    def test_loopback_is_never_looked_for_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(namespaces, "_elsewhere", lambda *_: pytest.fail("looked elsewhere"))
        with socket.create_server(("127.0.0.1", 0)) as server:
            free = server.getsockname()[1]
        for address in ("127.0.0.1", "", "*", "0.0.0.0", "::1"):
            assert find_anywhere("udp", address, free, None).grade is Grade.ABSENT

    @pytest.mark.usefixtures("names")
    def test_without_privilege(self) -> None:
        code = f"""
import os, pwd
from tunowner import find_process
import tunowner.backends.linux.namespaces
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(find_process("tcp", {THERE!r}, 1).grade)"""
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert said.stdout.split() == ["denied"], said.stderr

    @pytest.mark.usefixtures("names")
    def test_what_the_action_raises(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        for namespace in other_namespaces():
            with pytest.raises(ZeroDivisionError):
                inside(namespace, fail)


@pytest.mark.root
def test_an_address_of_another_machine() -> None:
    owner = find_anywhere("tcp", "192.0.2.77", 1, None)
    assert owner.grade is Grade.ABSENT
    assert owner.detail.startswith("remote")


def test_addresses_of_this_namespace() -> None:
    assert has_address("127.0.0.1")
    assert not has_address("192.0.2.77")
    assert not has_address("2001:db8::77")
