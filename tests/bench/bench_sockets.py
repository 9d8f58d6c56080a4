"""The connection table beside its peers: `python tests/bench/bench_sockets.py [--sockets 10000]`.

Opens the sockets in child processes, then reads the whole table with tunowner, psutil and `ss
-tunap`, in turns, in one run. A socket named to the wrong process ends the run with an error.
"""

from __future__ import annotations

import argparse
import importlib
import math
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.backends.linux.children import Child
from tunowner.backends import open_backend
from tunowner.backends.base import TableQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.core.model import Connection

CODE = "a, n = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(n)]; tell(*s); wait()"
PROCESSES = 20
TARGET = 3.0


def ours() -> list[Connection]:
    return open_backend().connections(TableQuery())


def command_line() -> None:
    subprocess.run(
        [sys.executable, "-m", "tunowner", "sockets", "--json"], check=True, capture_output=True
    )


def who() -> None:
    """Ask for one socket, as a user does: the whole process. 0.2 s is the promise."""
    subprocess.run(
        [sys.executable, "-m", "tunowner", "who", ":1"], check=False, capture_output=True
    )


def peers() -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    try:
        psutil = importlib.import_module("psutil")
        found["psutil.net_connections()"] = lambda: psutil.net_connections("inet")
    except ImportError:
        print("psutil is not installed: no peer to compare with")
    if shutil.which("ss"):
        found["ss -tunap"] = lambda: subprocess.run(
            ["ss", "-tunap"], check=True, capture_output=True
        )
    return found


def check(truth: dict[int, int]) -> None:
    """Compare with what the children said of their sockets, by cookie."""
    rows = {row.cookie: row for row in ours()}
    for cookie, pid in truth.items():
        holders = [holder.process.pid for holder in rows[cookie].holders]
        if holders != [pid]:
            raise SystemExit(f"wrong holders: {rows[cookie]}")
    print(f"{len(rows)} sockets, {len(truth)} of them checked, none wrong")


def measure(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, action in contestants.items():
            begun = time.perf_counter()
            action()
            spent[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def run(sockets: int, rounds: int) -> float:
    """Print the medians; return how many times as long psutil takes."""
    contestants = {"tunowner": ours, **peers(), "tunowner sockets --json (command)": command_line}
    contestants["tunowner who :1 (command)"] = who
    with ExitStack() as stack:
        truth: dict[int, int] = {}
        for _ in range(PROCESSES):  # a listener each: the queue is bounded by net.core.somaxconn
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            many = sockets // 2 // PROCESSES  # each connection is two sockets
            child = stack.enter_context(Child(CODE, listener.getsockname(), many))
            truth |= {told.cookie: child.pid for told in child.hear()}
            for _ in range(many):  # reset at the end: they shall not linger in the next run's table
                accepted = stack.enter_context(listener.accept()[0])
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        check(truth)
        medians = measure(contestants, rounds)
    for name, seconds in medians.items():
        print(f"{name:<36} {seconds * 1e3:8.1f} ms   x {seconds / medians['tunowner']:.2f}")
    return medians.get("psutil.net_connections()", math.inf) / medians["tunowner"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    ratio = run(options.sockets, options.rounds)
    reached = "reached" if ratio >= TARGET else "missed"
    print(f"{ratio:.2f} x as fast as psutil; target {TARGET:.1f} x {reached}")


if __name__ == "__main__":
    main()
