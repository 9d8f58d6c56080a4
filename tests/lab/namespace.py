"""One network namespace: run programs and Python functions in it, and describe its state."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.lab.processes import Keeper, finish, kill_pid
from tests.lab.snapshot import Snapshot, take_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_NETLINK_NETFILTER = 12
_FLUSH_CONNTRACK = struct.pack("=LHHLLBBH", 20, 0x102, 0x5, 1, 0, socket.AF_UNSPEC, 0, 0)


@dataclass
class Namespace:
    """A named namespace below /run/netns. Programs enter by nsenter, so /sys stays as it is."""

    name: str
    keeper: Keeper = field(default_factory=Keeper)

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a program; its pid is the process's pid. `env` is added to our environment."""
        identity = [] if user is None else [f"--setuid={user}", f"--setgid={user}"]
        enter = [
            "nsenter",
            f"--net={self.path}",
            *identity,
            "--",
            *(os.fspath(word) for word in argv),
        ]
        return self.keeper.start(enter, env={**os.environ, **(env or {})}, **options)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        stdin: str = "",
        check: bool = True,
        timeout: float = 60.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; unless told otherwise, a status but 0 is a failure."""
        pipe = subprocess.PIPE
        process = self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, **options)
        done = finish(process, stdin, timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def sh(self, script: str, **options: Any) -> str:
        """Run a shell script (`set -e`), return its standard output."""
        return self.run(["sh", "-ec", script], **options).stdout

    def json(self, *argv: str) -> Any:
        """Run a command that prints JSON."""
        return json.loads(self.run(argv).stdout or "[]")

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in a thread of its own that has entered the namespace.

        Sockets made there belong to the namespace for good. /proc/net is the test's own
        namespace even there; use /proc/thread-self/net.
        """
        with ThreadPoolExecutor(1, initializer=self._enter) as pool:
            return pool.submit(function, *arguments).result()

    def _enter(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns", self.path)
        finally:
            os.close(descriptor)

    def sysctl(self, key: str, value: object | None = None) -> str:
        """Return `net.…` as it was; with a value, set it."""
        return self.call(_sysctl, Path("/proc/sys") / key.replace(".", "/"), value)

    def snapshot(self) -> Snapshot:
        """Describe the network state, to be compared with another snapshot."""
        return take_snapshot(self)

    def link_stats(self, device: str) -> dict[str, Any]:
        """Return the `rx` and `tx` counters of a link."""
        stats: dict[str, Any] = self.json("ip", "-j", "-s", "link", "show", "dev", device)[0]
        return dict(stats["stats64"])

    def tun_packets(self, device: str = "tunowner0") -> int:
        """Return how many packets the kernel has handed out through a TUN."""
        return int(self.link_stats(device)["tx"]["packets"])

    def conntrack(self, *words: str) -> list[str]:
        """Return the known flows, as /proc shows them, whose line has all of the words."""
        table = self.call(Path("/proc/thread-self/net/nf_conntrack").read_text)
        return [line for line in table.splitlines() if set(words) <= set(line.split())]

    def flush_conntrack(self) -> None:
        """Forget all flows, so that a port used again is a new flow."""
        self.call(_flush_conntrack)

    def pids(self) -> list[int]:
        """Return the processes that are in the namespace, whoever started them."""
        if not Path(self.path).exists():
            return []
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split() if int(pid) != os.getpid()]

    def kill_all(self) -> None:
        """End what was started here, and what that has started."""
        self.keeper.kill_all()
        for pid in self.pids():
            kill_pid(pid)


def _sysctl(file: Path, value: object | None) -> str:
    before = file.read_text(encoding="ascii").strip()
    if value is not None:
        file.write_text(str(value), encoding="ascii")
    return before


def _flush_conntrack() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.send(_FLUSH_CONNTRACK)
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, "flush of conntrack")
