"""What `who` prints. Apart from `cli`, so that the commands stay readable there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from tunowner.app.events import owner_fields
from tunowner.app.find import PROTOCOLS
from tunowner.app.sockets import connection_fields
from tunowner.app.who import details_fields, who, who_is
from tunowner.control.arguments import endpoint
from tunowner.control.tables import answer_block, process_block

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tunowner.app.who import Answer


class Question(NamedTuple):
    """A socket that was asked for, and the words it was asked in."""

    protocols: Sequence[str]
    local: tuple[str, int]
    remote: tuple[str, int] | None
    words: Sequence[str]


def question(words: Sequence[str], protocol: str | None = None) -> Question:
    """Read `[tcp|udp] LOCAL [REMOTE]`. Raises click.UsageError."""
    protocols: Sequence[str] = (protocol,) if protocol else PROTOCOLS
    if words and words[0] in PROTOCOLS:
        if protocol not in (None, words[0]):
            raise click.UsageError(f"{words[0]} and --{protocol} contradict each other")
        protocols, words = words[:1], words[1:]
    if not 1 <= len(words) <= 2:
        raise click.UsageError("give LOCAL, and REMOTE if you like, each as ADDRESS:PORT; or --pid")
    if words[0].isalpha():
        raise click.UsageError(f"{words[0]!r} is not tcp or udp")
    local = endpoint(words[0])
    remote = endpoint(words[1], remote=True) if len(words) == 2 else None
    return Question(protocols, local, remote, words)


def tell_socket(asked: Question, *, sha256: bool, as_json: bool) -> bool:
    """Print who holds a socket; return whether anybody does."""
    answers = who(asked.protocols, asked.local, asked.remote, sha256=sha256)
    for answer in answers:
        if as_json:
            _write_json(_answer_fields(answer, asked.words))
        else:
            click.echo(answer_block(" ".join((answer.protocol, *asked.words)), answer))
    return any(answer.owner.candidates for answer in answers)


def tell_process(pid: int, *, sha256: bool, as_json: bool) -> bool:
    """Print what is known of a process; return whether there is one."""
    answer = who_is(pid, sha256=sha256)
    if answer is None:
        click.echo(f"tunowner: no process has the pid {pid}", err=True)
        return False
    if as_json:
        rows = [connection_fields(row) for row in answer.sockets]
        _write_json({"process": details_fields(answer.details), "sockets": rows})
    else:
        click.echo(process_block(answer))
    return True


def _answer_fields(answer: Answer, words: Sequence[str]) -> dict[str, Any]:
    row = answer.socket
    return {
        "proto": answer.protocol,
        "local": words[0],
        "remote": words[1] if len(words) > 1 else None,
        "socket": row and {"local": row.source, "remote": row.destination, "status": row.status},
        "owner": owner_fields(answer.owner),
        "processes": [details_fields(details) for details in answer.details],
        "detail": answer.owner.detail,
        "backend": answer.owner.backend,
        "lookup_us": answer.owner.lookup_us,
    }


def _write_json(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, ensure_ascii=True) + "\n")
