"""How others look owners up, written from the descriptions in owner-lookup.md. No code of theirs.

All but one look everything up afresh, whatever those programs cache: what is wrong is wrong by the
algorithm.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from tests.accuracy.model import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Contestant, Must, Question
    from tunowner.core.model import FlowKey

AF_NETLINK = 16  # not in the socket module of every system
PROTOCOLS = {6: "tcp", 17: "udp"}


class Baseline:
    name = ""
    level: Must | None = None
    notes = False

    def answer(self, question: Question) -> Answer:
        try:
            pid = self.look_up(question.flow)
            return Answer() if pid is None else Answer(pid, link(f"/proc/{pid}/exe"))
        except (OSError, psutil.Error):
            return Answer()

    def look_up(self, flow: FlowKey) -> int | None:
        raise NotImplementedError

    def close(self) -> None: ...


class PsutilScan(Baseline):
    """find_process.go: the whole table, the first row with this local address as a string."""

    name = "psutil scan"

    def look_up(self, flow: FlowKey) -> int | None:
        wanted = (str(ip_address(flow.local)), flow.local_port)
        for row in psutil.net_connections("inet"):
            if row.laddr and (row.laddr.ip, row.laddr.port) == wanted:
                return row.pid
        return None

    def answer(self, question: Question) -> Answer:
        pid = self.look_up(question.flow)
        try:
            return Answer() if pid is None else Answer(pid, psutil.Process(pid).exe())
        except psutil.Error:
            return Answer()


class Row(NamedTuple):
    local: bytes
    port: int
    uid: int
    inode: int


def dump(flow: FlowKey, family: int) -> Iterator[Row]:
    """Dump by family and local port: the kernel looks at nothing else."""
    request = struct.pack(
        "=IHHII BBBBI HH16s16sIQ", 72, 20, 0x301, 1, 0, family, flow.protocol, 0, 0, 0xFFFFFFFF,
        socket.htons(flow.local_port), 0, b"", b"", 0, 2**64 - 1,
    )  # fmt: skip
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, 4) as diag:
        diag.send(request)
        while True:
            data = diag.recv(1 << 16)
            while data:
                size, kind = struct.unpack_from("=IH", data)
                if kind in (2, 3):
                    return
                port, local = struct.unpack_from("!H2x16s", data, 20)
                uid, inode = struct.unpack_from("=II", data, 80)
                yield Row(local[: len(flow.local)], port, uid, inode)
                data = data[size + 3 & ~3 :]


def scan(inode: int, uid: int | None) -> int | None:
    """Return the first process that has the socket, of this user only unless None."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (None, process.stat().st_uid) and _has(process, inode):
                return int(process.name)
        except OSError:
            continue
    return None


def _has(process: Path, inode: int) -> bool:
    text = f"socket:[{inode}]"
    with os.scandir(process / "fd") as table:
        return any(link(entry.path) == text for entry in table)


def link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - a text, no path
    except OSError:
        return ""


class DumpFirst(Baseline):
    """sing-box 1.14 alpha and mihomo of 2025: the first row of the dump, whatever it is."""

    name = "dump, first row"

    def look_up(self, flow: FlowKey) -> int | None:
        family = socket.AF_INET if len(flow.local) == 4 else socket.AF_INET6
        row = next(dump(flow, family), None)
        return None if row is None else scan(row.inode, row.uid)


class DumpAddress(Baseline):
    """mihomo of 2026: the source must match; IPv4 is asked of AF_INET only, no wildcard."""

    name = "dump, address"

    def look_up(self, flow: FlowKey) -> int | None:
        family = socket.AF_INET if len(flow.local) == 4 else socket.AF_INET6
        for row in dump(flow, family):
            if (row.local, row.port) == (flow.local, flow.local_port):
                return scan(row.inode, row.uid)
        return None


class TextScan(Baseline):
    """Xray: the text "HEXIP:PORT" in /proc/net, IPv6 with all 16 bytes reversed; all pids."""

    name = "/proc/net text"

    def look_up(self, flow: FlowKey) -> int | None:
        wanted = f"{flow.local[::-1].hex().upper()}:{flow.local_port:04X}"
        table = PROTOCOLS.get(flow.protocol, "raw") + ("" if len(flow.local) == 4 else "6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == wanted:
                return scan(int(fields[9]), None)
        return None


class Cached(DumpAddress):
    """ProxyBridge: the table by source address, and that answer for a second."""

    name = "dump, 1 s cache"
    TTL = 1.0

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[float, Answer]] = {}

    def answer(self, question: Question) -> Answer:
        key = question.flow[:3]
        until, known = self._known.get(key, (0.0, Answer()))
        if time.monotonic() < until:
            return known
        found = super().answer(question)
        if found.pid is not None:
            self._known[key] = (time.monotonic() + self.TTL, found)
        return found


def baselines() -> list[Contestant]:
    return [PsutilScan(), DumpFirst(), DumpAddress(), Cached(), TextScan()]
