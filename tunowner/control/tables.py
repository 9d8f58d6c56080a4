"""Answers of `who` for people."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from tunowner.control.render import clean
from tunowner.core.model import PROTOCOL_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.app.who import Answer, ProcessAnswer
    from tunowner.core.model import Connection, Process, ProcessDetails

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
