from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.linux.children import Child
from tunowner.backends.linux import procfs
from tunowner.backends.linux.procfs import ProcessDir, Stat, UserNames, describe, parse_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Program = Callable[[str], tuple[Path, ProcessDir]]

if sys.platform != "linux":
    pytest.skip("/proc is Linux's", allow_module_level=True)

REST = b" 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 5555 0"


@pytest.mark.parametrize("name", [b"(sh)", b"(a b)", b"(a) S 9 (b)", b"())", b"(\n)", b"()"])
def test_names_with_spaces_and_parentheses(name: bytes) -> None:
    assert parse_stat(b"12 " + name + b" R 7" + REST) == Stat(b"R", 7, 3, 5555)


@given(st.binary(max_size=300))
def test_any_stat_is_none_or_read(text: bytes) -> None:
    parse_stat(text)


@pytest.mark.parametrize(
    ("link", "inode"),
    [
        (b"socket:[12]", 12),
        (b"pipe:[12]", 0),
        (b"/tmp/socket:[1]", 0),
        (b"socket:[x]", 0),
        (None, 0),
        (b"socket:[", 0),
    ],
)
def test_socket_inode(link: bytes | None, inode: int) -> None:
    assert procfs.socket_inode(link) == inode


def me() -> ProcessDir:
    opened = ProcessDir.open(os.getpid())
    assert opened is not None
    return opened


def test_ourselves() -> None:
    opened = me()
    assert opened.alive()
    assert opened.executable() == (os.path.realpath(sys.executable), False)
    assert opened.uid() == os.geteuid()
    assert opened.parent == os.getppid()
    assert os.getppid() in opened.relatives()
    assert 0 in opened.numbers(b"fd").numbers
    assert os.getpid() in procfs.pids().numbers


def test_start_is_field_22_of_stat() -> None:
    text = Path("/proc/self/stat").read_bytes()
    assert me().start == int(text.rpartition(b")")[2].split()[19])


def test_no_such_process() -> None:
    assert ProcessDir.open(2**22 + 1) is None
    assert procfs.owner_of(2**22 + 1) is None


def test_a_process_that_has_gone_answers_nothing_and_raises_nothing() -> None:
    with Child("tell(); wait()") as child:
        child.hear()
        opened = ProcessDir.open(child.pid)
        assert opened is not None
        assert opened.relatives()[0] == os.getpid()
    assert not opened.alive()
    assert opened.stat() is None
    assert opened.link(b"exe") is None
    assert opened.read(b"cmdline") is None
    assert opened.numbers(b"fd") == procfs.Listing()
    assert opened.descriptor_count() == 0
    assert opened.executable() == (None, False)
    assert opened.program() is None
    assert not opened.holds(b"fd/0", 1)
    assert describe(opened, b"fd/0", 1, UserNames()) is None


@pytest.mark.root
def test_an_open_directory_does_not_follow_a_reused_pid() -> None:
    with Child("tell(); wait()") as child:
        child.hear()
        pid, opened = child.pid, ProcessDir.open(child.pid)
    assert opened is not None
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(50):
        last.write_text(str(pid - 1))
        with subprocess.Popen(["sleep", "30"]) as again:
            reused = again.pid == pid
            assert opened.link(b"exe") is None
            assert not opened.alive()
            again.kill()
        if reused:
            return
    pytest.skip("other processes took the pid")


def test_descriptor_count_is_that_of_the_table() -> None:
    if me().descriptor_count() == 0:
        pytest.skip("older than Linux 6.2")
    process = me()
    before = process.descriptor_count()
    with ExitStack() as stack:
        for _ in range(40):  # what other tests have left to be closed by chance is less
            stack.enter_context(Path("/dev/null").open())
        assert 30 <= process.descriptor_count() - before <= 50


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Start a copy of `sleep` under a name of choice."""
    with ExitStack() as stack:

        def start(name: str) -> tuple[Path, ProcessDir]:
            path = tmp_path / name
            sleep = shutil.which("sleep")
            assert sleep is not None
            shutil.copy(sleep, path)
            process = stack.enter_context(subprocess.Popen(["sleep", "60"], executable=path))
            stack.callback(process.kill)
            opened = ProcessDir.open(process.pid)
            assert opened is not None
            return path, opened

        yield start


def test_a_deleted_executable(program: Program) -> None:
    path, opened = program("tool")
    path.unlink()
    assert opened.executable() == (str(path), True)
    path.write_text("another file of that name")
    assert opened.executable() == (str(path), True)


def test_a_replaced_executable(program: Program) -> None:
    path, opened = program("tool")
    other = path.with_name("other")
    shutil.copy(path, other)
    other.rename(path)
    assert opened.executable() == (str(path), True)


def test_a_name_that_only_looks_deleted(program: Program) -> None:
    path, opened = program("tool (deleted)")
    assert opened.executable() == (str(path), False)
    path.unlink()
    assert opened.executable() == (str(path), True)


def test_a_name_that_is_not_utf8(program: Program) -> None:
    path, opened = program(os.fsdecode(b"t\xff\xfe"))
    assert opened.executable() == (str(path), False)


def test_the_same_program_twice_and_another(program: Program) -> None:
    _, first = program("one")
    _, again = program("one-copy")
    assert first.program() is not None
    assert first.program() != again.program()


def test_describe_ourselves() -> None:
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        link = b"fd/%d" % sock.fileno()
        process = describe(me(), link, inode, UserNames())
        assert process is not None
        assert (process.pid, process.start) == (os.getpid(), me().start)
        assert process.path == os.path.realpath(sys.executable)
        assert process.uid == os.geteuid()
        assert describe(me(), link, inode + 1, UserNames()) is None
        assert describe(me(), b"fd/99999", inode, UserNames()) is None


def test_user_names() -> None:
    names = UserNames(limit=2)
    assert names.name(0) == "root"
    assert names.name(None) is None
    assert names.name(3_999_999_999) is None
    assert [names.name(uid) for uid in (4_000_000_000, 4_000_000_001, 0)] == [None, None, "root"]
    assert len(names._names) <= 2
