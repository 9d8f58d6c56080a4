"""Open flow after flow from one local port, each time the baton comes; pass it on after closing.

The baton is a byte read from descriptor `--take` and written to `--give`. At the end, one line of
JSON per flow: what became of it ("ok", an errno name, or "silence").
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
import struct
import sys
import time

NO_LINGER = struct.pack("ii", 1, 0)
"""Close by RST: the port is free at once, without TIME_WAIT."""


def flow(options: argparse.Namespace) -> str:
    family = socket.AF_INET6 if ":" in options.target else socket.AF_INET
    kind = socket.SOCK_STREAM if options.proto == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as it:
        it.settimeout(options.timeout)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.proto == "tcp":
            it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        it.bind((options.bind, options.local_port))
        try:
            it.connect((options.target, options.port))
            it.send(b"x")
            it.recv(100)
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "ok"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("proto", choices=["tcp", "udp"])
    parser.add_argument("target")
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--local-port", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds, after taking the baton")
    parser.add_argument("--timeout", type=float, default=0.3)
    parser.add_argument("--take", type=int, required=True)
    parser.add_argument("--give", type=int, required=True)
    options = parser.parse_args()
    outcomes = []
    for _ in range(options.rounds):
        if not os.read(options.take, 1):
            sys.exit("the other program has ended")
        if options.pause:
            time.sleep(options.pause)
        outcomes.append(flow(options))
        os.write(options.give, b".")
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
