"""Open flows to the lab's echo server and print one line of JSON for each.

At most `--concurrency` flows are on their way at once; `--burst` opens all at once and closes none
before the last has ended. `--hold` keeps them open until standard input ends. `--start` names a
FIFO: the flows begin once nobody has it open for writing any more.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import json
import os
import resource
import selectors
import socket
import sys
import time
from pathlib import Path

SO_COOKIE = 57
CONNECTING = (0, errno.EINPROGRESS)


def endpoint(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def error_name(error: OSError | None) -> str | None:
    return None if error is None else errno.errorcode.get(error.errno or 0, str(error))


class Flow:
    """One conversation: connect, then send the payload and read it back, `messages` times."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        self.options = options
        self.number = number
        self.is_tcp = options.proto == "tcp"
        self.payload = options.payload.encode()
        self.left = options.messages
        self.received = b""
        self.source = ""
        self.cookie = 0
        self.connected_at: float | None = None
        self.ended_at: float | None = None
        self.error: str | None = None
        self.peer: tuple[str, int] | None = None
        family = socket.AF_INET6 if ":" in options.target else socket.AF_INET
        kind = socket.SOCK_STREAM if self.is_tcp else socket.SOCK_DGRAM
        self.started_at = time.perf_counter()
        self.deadline = time.monotonic() + options.timeout
        self.socket = socket.socket(family, kind)

    def start(self) -> None:
        self.socket.setblocking(False)
        cookie = self.socket.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        self.cookie = int.from_bytes(cookie, sys.byteorder)
        self.bind()
        status = self.socket.connect_ex((self.options.target, self.options.port))
        if status not in CONNECTING:
            raise OSError(status, os.strerror(status))
        self.source = endpoint(self.socket.getsockname())
        if not self.is_tcp:
            self.connected()

    def bind(self) -> None:
        if self.options.device:
            device = self.options.device.encode()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        if self.options.bind or self.options.local_port:
            any_address = "::" if ":" in self.options.target else "0.0.0.0"
            port = self.options.local_port and self.options.local_port + self.number
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((self.options.bind or any_address, port))

    def connected(self) -> None:
        self.connected_at = time.perf_counter()
        self.socket.send(self.payload)

    def writable(self) -> None:
        if self.connected_at is None:
            if status := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(status, os.strerror(status))
            self.connected()

    def readable(self) -> bool:
        """Take what has come; True when all messages are answered."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise OSError(errno.ECONNRESET, "ended early")
        self.received += data
        if not self.answered():
            return False
        self.left -= 1
        if self.left:
            self.socket.send(self.payload)
        return not self.left

    def answered(self) -> bool:
        """Tell whether the whole answer is here: the peer (TCP: only once) and the payload."""
        if self.peer is None or not self.is_tcp:
            line, newline, rest = self.received.partition(b"\n")
            if not newline:
                return False
            host, port = line.decode().split()
            self.peer, self.received = (host, int(port)), rest
        if len(self.received) < len(self.payload):
            return False
        self.check_echo()
        return True

    def check_echo(self) -> None:
        echoed, self.received = self.received, b""
        if echoed != self.payload:
            raise OSError(errno.EBADMSG, "not what was sent")

    def end(self, error: str | None = None) -> None:
        self.ended_at = time.perf_counter()
        self.error = error

    def report(self) -> str:
        line = {
            "proto": self.options.proto,
            "src": self.source,
            "dst": endpoint((self.options.target, self.options.port)),
            "ok": self.error is None,
            "error": self.error,
            "peer_seen": self.peer and self.peer[0],
            "peer_port": self.peer and self.peer[1],
            "connect_us": self.microseconds(self.connected_at),
            "total_us": self.microseconds(self.ended_at),
            "pid": os.getpid(),
            "cookie": self.cookie,
        }
        return json.dumps(line)

    def microseconds(self, moment: float | None) -> int | None:
        return None if moment is None else round((moment - self.started_at) * 1e6)


class Probe:
    """Drives the flows by one selector."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.selector = selectors.DefaultSelector()
        self.deadlines: list[tuple[float, int, Flow]] = []
        self.active: set[Flow] = set()
        self.ended: list[Flow] = []
        self.opened = 0
        self.failed = 0

    def run(self) -> int:
        limit = self.options.count if self.options.burst else self.options.concurrency
        while self.opened < self.options.count or self.active:
            while self.opened < self.options.count and len(self.active) < limit:
                self.open()
            self.turn()
        self.finish()
        return 1 if self.failed else 0

    def open(self) -> None:
        flow = Flow(self.options, self.opened)
        self.opened += 1
        self.active.add(flow)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if flow.is_tcp else 0)
        try:
            flow.start()
        except OSError as error:
            self.end(flow, error)
        else:
            self.selector.register(flow.socket, events, flow)
            heapq.heappush(self.deadlines, (flow.deadline, flow.number, flow))

    def turn(self) -> None:
        for key, events in self.selector.select(self.patience()) if self.active else ():
            self.advance(key.data, events)
        while self.deadlines and self.deadlines[0][0] <= time.monotonic():
            flow = heapq.heappop(self.deadlines)[2]
            if flow in self.active:
                self.end(flow, OSError(errno.ETIMEDOUT, "no answer"))

    def patience(self) -> float:
        return max(0.0, self.deadlines[0][0] - time.monotonic())

    def advance(self, flow: Flow, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                flow.writable()
                self.selector.modify(flow.socket, selectors.EVENT_READ, flow)
            if events & selectors.EVENT_READ and flow.readable():
                self.end(flow)
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(flow, error)

    def end(self, flow: Flow, error: OSError | None = None) -> None:
        flow.end(error_name(error))
        self.failed += error is not None
        self.active.discard(flow)
        if flow.socket in self.selector.get_map():
            self.selector.unregister(flow.socket)
        if self.options.burst or self.options.hold:
            self.ended.append(flow)
        else:
            flow.socket.close()
        print(flow.report())

    def finish(self) -> None:
        sys.stdout.flush()
        if self.options.hold:
            sys.stdin.read()
        for flow in self.ended:
            flow.socket.close()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proto", choices=["tcp", "udp"])
    parser.add_argument("target")
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--payload", default="hello")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--messages", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--bind", default="", help="local address")
    parser.add_argument("--local-port", type=int, default=0, help="of the first flow, counting up")
    parser.add_argument("--device", default="", help="SO_BINDTODEVICE")
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--start", type=Path, help="FIFO to wait for")
    return parser.parse_args(arguments)


def main() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = parse()
    if options.start:
        options.start.read_bytes()
    return Probe(options).run()


if __name__ == "__main__":
    sys.exit(main())
