"""A client that lives as long as the measurement: orders come in as lines of JSON, answers go out.

It runs as a copy of python under a name of its own, so that a rule can tell it apart.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
CONNECTING = (0, errno.EINPROGRESS)
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER, 0 s: close() sends a RST and leaves no TIME_WAIT, so the ports last."""
PATIENCE_S = 10.0


def new_socket(order: dict[str, Any]) -> socket.socket:
    made = socket.socket(socket.AF_INET, KINDS[order["proto"]])
    if order.get("device"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, order["device"].encode())
    if order["proto"] == "tcp":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    return made


def one_by_one(order: dict[str, Any]) -> dict[str, Any]:
    """Open `count` flows, each after the last; time connect + one byte there and back.

    It stays on the first processor and the server on the last: whether the two share one makes a
    difference of 45 us, and the scheduler would draw lots for it.
    """
    os.sched_setaffinity(0, {0})
    target = (order["host"], order["port"])
    spent, errors = [], Counter[str]()
    for _ in range(order["count"]):
        with new_socket(order) as sock:
            sock.settimeout(PATIENCE_S)
            begun = time.perf_counter_ns()
            try:
                sock.connect(target)
                sock.send(b"x")
                sock.recv(1)
            except OSError as error:
                errors[error_name(error)] += 1
            spent.append((time.perf_counter_ns() - begun) / 1000)
    return {"us": spent, "errors": errors}


def many_at_once(order: dict[str, Any]) -> dict[str, Any]:
    """Open `count` flows as fast as they are answered, `window` of them on their way."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return Flood(order).run()


class Flood:
    """A TCP flow is done when it is connected, a UDP flow when its answer is here."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.target = (order["host"], order["port"])
        self.is_tcp = order["proto"] == "tcp"
        self.poller = select.epoll()
        self.flying: dict[int, socket.socket] = {}
        self.outcomes = Counter[str]()

    def run(self) -> dict[str, Any]:
        begun = time.perf_counter()
        opened, count, window = 0, self.order["count"], self.order["window"]
        while opened < count or self.flying:
            while opened < count and len(self.flying) < window:
                self.open()
                opened += 1
            ready = self.poller.poll(PATIENCE_S)
            if not ready:
                self.outcomes["ETIMEDOUT"] += len(self.flying)
                break
            for descriptor, _ in ready:
                self.end(self.flying.pop(descriptor))
        return {"seconds": time.perf_counter() - begun, "outcomes": self.outcomes}

    def open(self) -> None:
        sock = new_socket(self.order)
        sock.setblocking(False)
        status = sock.connect_ex(self.target)
        if status not in CONNECTING:
            raise OSError(status, "connect")
        if not self.is_tcp:
            sock.send(b"x")
        self.flying[sock.fileno()] = sock
        self.poller.register(sock, select.EPOLLOUT if self.is_tcp else select.EPOLLIN)

    def end(self, sock: socket.socket) -> None:
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.outcomes[errno.errorcode[status] if status else "ok"] += 1
        sock.close()


def error_name(error: OSError) -> str:
    return "ETIMEDOUT" if error.errno is None else errno.errorcode[error.errno]


ORDERS = {"one-by-one": one_by_one, "many-at-once": many_at_once}


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(ORDERS[order["do"]](order)), flush=True)


if __name__ == "__main__":
    main()
