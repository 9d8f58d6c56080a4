"""Keep one flow busy: send a byte every 10 ms, whatever happens, and print a line per answer.

Ends with standard input, or with the flow: then the last line is the error's name.
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import sys

PERIOD_MS = 10
SOFT = {errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ENETDOWN}
"""A datagram that could not be sent now; the next one may."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("proto", choices=["tcp", "udp"])
    parser.add_argument("target")
    parser.add_argument("--port", type=int, default=7000)
    options = parser.parse_args()
    is_tcp = options.proto == "tcp"
    family = socket.AF_INET6 if ":" in options.target else socket.AF_INET
    flow = socket.socket(family, socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM)
    flow.settimeout(5)
    flow.connect((options.target, options.port))
    host, port = flow.getsockname()[:2]
    print(f"source {host} {port}")
    flow.setblocking(False)
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    while not poller.poll(PERIOD_MS):
        try:
            flow.send(b"x")
        except OSError as error:
            if error.errno not in SOFT and is_tcp:
                print(errno.errorcode[error.errno or 0])
                return 1
        try:
            while flow.recv(65536):
                print("answer")
        except OSError as error:
            if error.errno not in SOFT and is_tcp:
                print(errno.errorcode[error.errno or 0])
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
