"""A holder that dies at every step of a look-up, or whose pid is given to another program there."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.accuracy.model import Program
from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.children import Child
from tests.backends.linux.test_owners import FAR, TCP_CHILD, UDP_CHILD, _server
from tests.backends.owner_contract import ask
from tunowner.backends.linux.bpf.loader import OwnerMap
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.procfs import ProcessDir
from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunowner.core.model import Owner

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

__all__ = ["_server"]

pytestmark = pytest.mark.root

STEPS = ("link", "read", "stat", "alive", "numbers", "uid")
"""What is ever read of a process that was opened."""
SYSTEM_CALLS = ("readlink", "fstat")
"""What a look-up by eBPF reads of it with nothing in between."""
NOBODY = {Grade.CLOSED, Grade.UID_ONLY, Grade.ABSENT, Grade.DENIED, Grade.KERNEL, Grade.AMBIGUOUS}
MOST = 300
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.fixture(params=["proc", "btf", "helpers"])
def source(request: pytest.FixtureRequest) -> Iterator[LinuxOwners]:
    with ExitStack() as undo:
        bpf = None
        if request.param != "proc":
            cgroup = undo.enter_context(own_cgroup())
            bpf = OwnerMap(cgroup, reads_tasks=request.param == "btf")
        yield undo.enter_context(LinuxOwners(bpf=bpf))


@contextmanager
def at_step(number: int, pid: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Do `act` before the step of this number; yield a list that is empty when it came to that."""
    numbers = itertools.count()
    left = [number]

    def count(whose: int) -> None:
        if whose == pid and left and next(numbers) == number:
            left.clear()
            act()

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            original = getattr(ProcessDir, name)
            patch.setattr(ProcessDir, name, counted(original, count, pid_of))
        whose = pid_of_directory(os.readlink)
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, counted(getattr(os, name), count, whose))
        yield left


def pid_of(process: ProcessDir, *_: object) -> int:
    return process.pid


def counted(
    original: Callable[..., Any], count: Callable[[int], None], whose: Callable[..., int]
) -> Any:
    def step(*arguments: Any, **options: Any) -> Any:
        count(whose(*arguments, *options.values()))
        return original(*arguments, **options)

    return step


def pid_of_directory(readlink: Callable[[str], str]) -> Callable[..., int]:
    """Return what tells which process the last argument, an open directory, is of; or 0."""

    def whose(*arguments: object) -> int:
        with suppress(OSError):
            path = readlink(f"/proc/self/fd/{arguments[-1]}")
            pid = path.removeprefix("/proc/").split(" ")[0]
            return int(pid) if pid.isdigit() else 0
        return 0

    return whose


def end(child: Child) -> None:
    child.process.kill()
    child.process.wait()


def is_right(owner: Owner, program: Program) -> bool:
    """Whether it names the program, or nobody. The path may be lost with the process."""
    named = [Program(it.pid, it.start, it.path or program.path) for it in owner.candidates]
    if owner.process is None:
        return owner.grade in NOBODY and set(named) <= {program}
    return named == [program]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("code", [TCP_CHILD, UDP_CHILD], ids=["tcp", "udp"])
def test_it_dies(source: LinuxOwners, server: tuple[str, int], code: str, warm: bool) -> None:  # noqa: FBT001
    arguments: list[object] = [server] if code == TCP_CHILD else [["127.0.0.1", 0], None]
    for number in range(MOST):
        with Child(code, *arguments) as child:
            (truth,) = child.hear()
            flow = truth.flow(remote=truth.remote or FAR)
            program = Program.of(child.pid)
            if warm:
                assert ask(source, flow).process is not None

            with at_step(number, child.pid, lambda: end(child)) as left:
                owner = ask(source, flow)
            assert is_right(owner, program), (number, owner)
            if left:
                break
    assert left
    assert number > 2


@pytest.mark.parametrize("warm", [False, True])
def test_its_pid_is_given_to_another(source: LinuxOwners, warm: bool) -> None:  # noqa: FBT001
    again: list[subprocess.Popen[bytes]] = []

    def recycle(child: Child) -> None:
        end(child)
        for _ in range(50):
            LAST_PID.write_text(str(child.pid - 1))
            again.append(subprocess.Popen(["sleep", "60"]))
            if again[-1].pid == child.pid:
                return

    recycled = 0
    for number in range(MOST):
        with Child(UDP_CHILD, ["127.0.0.1", 0], None) as child:
            (truth,) = child.hear()
            flow, program = truth.flow(remote=FAR), Program.of(child.pid)
            if warm:
                assert ask(source, flow).process is not None
            try:
                with at_step(number, child.pid, lambda: recycle(child)) as left:
                    owner = ask(source, flow)
                assert is_right(owner, program), (number, owner)
                recycled += any(it.pid == child.pid for it in again)
            finally:
                while again:
                    again[-1].kill()
                    again.pop().wait()
            if left:
                break
    assert left
    assert recycled > 0
