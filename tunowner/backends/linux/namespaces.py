"""Sockets of other network namespaces: containers, `ip netns`, sandboxes.

sock_diag answers for the namespace it is asked in (network_namespaces(7)), so a thread of its own
enters each namespace that has the address and asks there. /proc shows the processes of all of
them. Entering needs CAP_SYS_ADMIN (setns(2)); without it the answer says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from tunowner.backends.linux.find import find_process
from tunowner.backends.linux.procfs import pids
from tunowner.core.model import Grade, Owner
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunowner.backends.linux.owners import LinuxOwners

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""<linux/sched.h>."""
PINNED = (Path("/run/netns"), Path("/run/docker/netns"))
"""Where ip-netns(8) and docker keep namespaces that may have no process."""
_OWN = "/proc/thread-self/ns/net"


class Namespace(NamedTuple):
    """A network namespace: (device, inode) of its file and the descriptor that keeps it."""

    identity: tuple[int, int]
    descriptor: int


def find_anywhere(
    protocol: str,
    ip: str,
    port: int,
    remote: tuple[str, int] | None,
    source: LinuxOwners | None = None,
) -> Owner:
    """Find the owner of a local socket in this network namespace, else where its address is.

    "Any" and loopback addresses are this namespace's: every other has them too.
    """
    owner = find_process(protocol, ip, port, remote, source=source)
    if owner.grade is not Grade.ABSENT or not _may_be_elsewhere(ip):
        return owner
    return _elsewhere(protocol, ip, port, remote, owner)


def _may_be_elsewhere(ip: str) -> bool:
    if ip in ("", "*"):
        return False
    address = ip_address(ip)
    return not (address.is_loopback or address.is_unspecified or has_address(ip))


def has_address(ip: str) -> bool:
    """Whether the network namespace of this thread has the address.

    bind(2) refuses one that is not there with EADDRNOTAVAIL, unless ip_nonlocal_bind is set.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip.partition("%")[0], 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _elsewhere(
    protocol: str, ip: str, port: int, remote: tuple[str, int] | None, here: Owner
) -> Owner:
    """Ask each namespace that has the address. Two answers are one doubt."""

    def ask() -> Owner | None:
        if not has_address(ip):
            return None
        return find_process(protocol, ip, port, remote)

    refused = False
    answers: list[Owner] = []
    for namespace in other_namespaces():
        try:
            answer = inside(namespace, ask)
        except (OSError, BackendError):  # not allowed to enter, or no sock_diag there
            refused = True
            continue
        if answer is not None:
            answers.append(_told(answer, f"in network namespace net:[{namespace.identity[1]}]"))
    return _chosen(answers, here, refused=refused)


def _chosen(answers: list[Owner], here: Owner, *, refused: bool) -> Owner:
    found = [answer for answer in answers if answer.grade is not Grade.ABSENT]
    if len(found) > 1:
        return _ambiguous(found)
    if found:
        return found[0]
    if refused:
        detail = "no address of this network namespace; others need CAP_SYS_ADMIN"
        return _told(here, detail, Grade.DENIED)
    if answers:
        return answers[0]
    return _told(here, "remote: no network namespace here has the address")


def _ambiguous(found: list[Owner]) -> Owner:
    candidates = tuple(process for owner in found for process in owner.candidates)
    return found[0]._replace(
        grade=Grade.AMBIGUOUS,
        candidates=tuple(dict.fromkeys(candidates)),
        uid=None,
        user=None,
        cookie=None,
        lookup_us=sum(owner.lookup_us for owner in found),
        detail=f"{len(found)} network namespaces have the address and such a socket",
    )


def _told(owner: Owner, detail: str, grade: Grade | None = None) -> Owner:
    detail = f"{owner.detail}; {detail}" if owner.detail else detail
    return owner._replace(grade=grade or owner.grade, detail=detail)


def other_namespaces() -> Iterator[Namespace]:
    """Yield each network namespace but this thread's, open while the caller is at it.

    Those of processes, and those that only a file keeps. Where a process may not be looked at,
    another of the same namespace often may.
    """
    seen = {_identity(_OWN)}
    for path in (*_of_processes(), *_pinned()):
        identity = _identity(path)
        if identity is None or identity in seen:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            seen.add(_identity(f"/proc/self/fd/{descriptor}") or identity)
            yield Namespace(identity, descriptor)
        finally:
            os.close(descriptor)


def _of_processes() -> Iterator[str]:
    return (f"/proc/{pid}/ns/net" for pid in pids().numbers)


def _pinned() -> Iterator[str]:
    for folder in PINNED:
        try:
            yield from sorted(str(path) for path in folder.iterdir())
        except OSError:
            continue


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def inside(namespace: Namespace, action: Callable[[], T]) -> T:
    """Run `action` in a network namespace, on a thread of its own that ends with it.

    Raises PermissionError without CAP_SYS_ADMIN, and what `action` raises.
    """
    visit = _Visit(namespace.descriptor, action)
    visit.start()
    visit.join()
    return visit.result()


class _Visit(threading.Thread, Generic[T]):
    """setns(2) moves the calling thread only, so this one never does anything else."""

    def __init__(self, descriptor: int, action: Callable[[], T]) -> None:
        super().__init__(name="other-netns", daemon=True)
        self._descriptor = descriptor
        self._action = action
        self._answer: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            _enter(self._descriptor)
            self._answer.append(self._action())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error

    def result(self) -> T:
        error, self._error = self._error, None  # it refers to this thread: no circle stays behind
        if error is not None:
            raise error
        return self._answer[0]


def _enter(descriptor: int) -> None:
    """Call setns(2); os.setns() exists since Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
