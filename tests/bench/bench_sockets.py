"""The connection table beside its peers: `python -m tests.bench.bench_sockets [--sockets 10000]`.

Opens the sockets in child processes, then reads the whole table with tunowner, psutil, ss, lsof and
gopsutil, in turns, in one run. A socket named to the wrong process ends the run with an error.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.backends.linux.children import Child
from tests.bench.peers import PSUTIL, PSUTIL_COMMAND, Peers, in_turns, run, timed
from tests.bench.report import Report
from tunowner.backends import open_backend
from tunowner.backends.base import TableQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.peers import Round

CODE = "a, n = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(n)]; tell(*s); wait()"
PROCESSES = 20
TABLE = "connections() (library)"
COMMAND, JSON = "tunowner sockets (command)", "tunowner sockets --json (command)"
WHO = "tunowner who :1 (command)"
TARGET = 3.0


def ours() -> dict[str, Round]:
    """Return our ways to the table: by the library and by commands."""
    tunowner = (sys.executable, "-m", "tunowner")
    return {
        TABLE: timed(lambda: open_backend().connections(TableQuery())),
        COMMAND: timed(lambda: run(*tunowner, "sockets")),
        JSON: timed(lambda: run(*tunowner, "sockets", "--json")),
        WHO: timed(
            lambda: subprocess.run((*tunowner, "who", ":1"), check=False, capture_output=True)
        ),
    }


def check(truth: dict[int, int]) -> str:
    """Compare with what the children said of their sockets, by cookie."""
    rows = {row.cookie: row for row in open_backend().connections(TableQuery())}
    for cookie, pid in truth.items():
        holders = [holder.process.pid for holder in rows[cookie].holders]
        if holders != [pid]:
            raise SystemExit(f"wrong holders: {rows[cookie]}")
    return f"{len(rows)} sockets, {len(truth)} of them checked, none wrong"


def opened(stack: ExitStack, sockets: int) -> dict[int, int]:
    """Open the sockets, half of them in children; return what those say: cookie -> pid."""
    truth: dict[int, int] = {}
    for _ in range(PROCESSES):  # a listener each: the queue is bounded by net.core.somaxconn
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        many = sockets // 2 // PROCESSES  # each connection is two sockets
        child = stack.enter_context(Child(CODE, listener.getsockname(), many))
        truth |= {told.cookie: child.pid for told in child.hear()}
        for _ in range(many):  # reset at the end: they shall not linger in the next run's table
            accepted = stack.enter_context(listener.accept()[0])
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return truth


def keep_bytecode(stack: ExitStack) -> None:
    """Let commands start as installed ones do: else Python compiles what is in a checkout."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = stack.enter_context(tempfile.TemporaryDirectory())


def rows(report: Report, spent: Mapping[str, list[float]]) -> None:
    """Add each of ours beside its peers."""
    medians = {name: statistics.median(seconds) * 1e3 for name, seconds in spent.items()}
    limit = 1 / TARGET
    for what, peer in ((TABLE, PSUTIL), (COMMAND, PSUTIL_COMMAND)):
        beside = medians.get(peer)
        report.add(what, medians[what], "ms", peer=beside, peer_is=peer, at_most=limit, of="ratio")
    report.add(JSON, medians[JSON], "ms", peer=medians.get(PSUTIL_COMMAND), peer_is=PSUTIL_COMMAND)
    for peer in sorted(medians.keys() - {PSUTIL, PSUTIL_COMMAND, TABLE, COMMAND, JSON, WHO}):
        report.add(TABLE, medians[TABLE], "ms", peer=medians[peer], peer_is=peer)
    report.add(WHO, medians[WHO], "ms", at_most=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    report = Report()
    with ExitStack() as stack:
        keep_bytecode(stack)
        peers = Peers(stack, report)
        report.remark(check(opened(stack, options.sockets)))
        spent = in_turns({**ours(), **peers.tables()}, options.rounds)
    rows(report, spent)
    if PSUTIL in spent:
        report.noise(f"{PSUTIL}, ms", [seconds * 1e3 for seconds in spent[PSUTIL]])
    report.noise(f"{TABLE}, ms", [seconds * 1e3 for seconds in spent[TABLE]])
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
