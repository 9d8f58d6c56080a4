"""Answers of `who` and `sockets` for people."""

from __future__ import annotations

import shlex
import time
from functools import cache
from typing import TYPE_CHECKING

from tunowner.app.sockets import address_text
from tunowner.control.render import clean
from tunowner.core.model import PROTOCOL_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tunowner.app.who import Answer, ProcessAnswer
    from tunowner.core.model import Connection, Process, ProcessDetails

HEADINGS = ("PROTO", "STATUS", "LOCAL", "REMOTE", "USER", "PID", "NAME", "PATH")
WIDEST = 46
"""A wider cell pushes its own line only: an IPv6 address with its port is 47 at most."""
LONGEST_COMMAND = 160


def answer_block(title: str, answer: Answer) -> str:
    """Return the answer of `who LOCAL`, several lines."""
    owner, row = answer.owner, answer.socket
    lines = [clean(title)]
    if row is not None:
        lines.append(f"  socket  {row.source} -> {row.destination}  {_state(row)}".rstrip())
    for details in answer.details:
        lines += process_lines(details)
    if not owner.candidates and owner.uid is not None:
        lines.append(f"  user    {clean(owner.user or owner.uid)}")
    detail = f" ({clean(owner.detail)})" if owner.detail else ""
    how = f" by {owner.backend}" if owner.backend else ""
    lines.append(f"  grade   {owner.grade}{detail}{how}, {owner.lookup_us / 1000:.1f} ms")
    return "\n".join(lines)


def process_block(answer: ProcessAnswer) -> str:
    """Return the answer of `who --pid`, several lines."""
    lines = [f"pid {answer.details.process.pid}", *process_lines(answer.details)]
    for row in answer.sockets:
        name = PROTOCOL_NAMES[row.protocol]
        lines.append(f"  socket  {name} {row.source} -> {row.destination}  {_state(row)}".rstrip())
    return "\n".join(lines)


def process_lines(it: ProcessDetails) -> Iterator[str]:
    """Yield a line for each thing that is known of a process."""
    process = it.process
    deleted = " (deleted)" if process.deleted else ""
    yield f"  owner   {clean(process.name or '?')}  pid {process.pid}"
    yield f"  path    {clean(process.path or '?')}{deleted}"
    yield f"  user    {_user(process)}"
    if it.started_at is not None:
        yield f"  started {_clock(it.started_at)}"
    if it.command_line:
        yield f"  command {_shortened(shlex.join(it.command_line))}"
    if it.parents:
        cut = "" if it.parents_whole else " <- ?"
        chain = " <- ".join(f"{clean(up.name or '?')} {up.pid}" for up in it.parents)
        yield f"  parents {chain}{cut}"
    yield from _origin_lines(it)


def _origin_lines(it: ProcessDetails) -> Iterator[str]:
    """Yield where a process comes from: what is known to be nothing is left out."""
    unit = " / ".join(filter(None, (it.unit, it.user_unit)))
    told = {"package": it.package, "unit": unit, "container": it.container, "sha256": it.sha256}
    for name, value in told.items():
        if value:
            yield f"  {name:<7} {clean(value)}"


def _user(process: Process) -> str:
    if process.user is None:
        return clean(process.uid)
    return f"{clean(process.user)} ({process.uid})"


def _clock(seconds: float) -> str:
    """Return the local time, with the date unless it is today's."""
    at = time.localtime(seconds)
    today = time.strftime("%F", at) == time.strftime("%F")
    return time.strftime("%H:%M:%S" if today else "%F %H:%M:%S", at)


def _shortened(text: str) -> str:
    text = clean(text)
    return text if len(text) <= LONGEST_COMMAND else text[: LONGEST_COMMAND - 3] + "..."


def _state(row: Connection) -> str:
    return "" if row.status == "NONE" else row.status


def sockets_table(rows: Sequence[Connection]) -> Iterator[str]:
    """Yield the lines of the connection table, the headings first."""
    held = cache(_holder_cells)  # a process has many sockets, a table thousands
    cells = [HEADINGS, *(_cells(row, held) for row in rows)]
    columns = zip(*cells, strict=True)
    widths = [min(WIDEST, max(map(len, column))) for column in columns]
    line = "  ".join(f"{{:<{width}}}" for width in widths)
    for texts in cells:
        yield line.format(*texts).rstrip()


def _end(address: bytes, port: int) -> str:
    text = address_text(address)
    return f"{text}:{port}" if len(address) == 4 else f"[{text}]:{port}"


def _cells(
    row: Connection, held: Callable[[Process, int], tuple[str, str, str, str]]
) -> tuple[str, ...]:
    """Word a row. Without a holder the grade says why."""
    process = row.process
    remote = _end(row.remote, row.remote_port) if row.remote_port else "*"
    local = _end(row.local, row.local_port)
    socket = (PROTOCOL_NAMES[row.protocol], _state(row) or "-", local, remote)
    if process is None:
        return (*socket, clean("-" if row.uid is None else row.uid), "-", f"({row.grade})", "")
    return (*socket, *held(process, len(row.holders)))


def _holder_cells(process: Process, holders: int) -> tuple[str, str, str, str]:
    """Word the first holder; the others are told by their number."""
    more = f" +{holders - 1}" if holders > 1 else ""
    path = clean(process.path or "?") + (" (deleted)" if process.deleted else "")
    user = clean(process.uid if process.user is None else process.user)
    return user, f"{process.pid}{more}", clean(process.name or "?"), path
