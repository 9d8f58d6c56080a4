"""The servers of the lab in one process: echo (TCP, UDP), HTTP and DNS on every given address.

Each connection and datagram is written to the log, as one line of JSON, before it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 65535
RECEIVE_BUFFER = 64 << 20
SO_RCVBUFFORCE = 33
DNS_ANSWER = "203.0.113.5"


def write_log(file: TextIO, proto: str, peer: Any, local: Any) -> None:
    line = {"proto": proto, "peer": peer[0], "peer_port": peer[1], "to": local[0], "port": local[1]}
    file.write(json.dumps(line) + "\n")


class Stream(asyncio.Protocol):
    """A TCP connection; subclasses answer. The peer ending its side ends the connection."""

    def __init__(self, log: Callable[[str, Any, Any], None]) -> None:
        self.log = log

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer = self.transport.get_extra_info("peername")
        self.log("tcp", self.peer, transport.get_extra_info("sockname"))


class EchoStream(Stream):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(whoami(self.peer))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class HttpStream(Stream):
    """Answers any request with the peer's address; `GET /N` with N bytes."""

    def data_received(self, data: bytes) -> None:
        target = data.split(b" ", 2)[1].strip(b"/") if data.count(b" ") > 1 else b""
        body = bytes(int(target)) if target.isdigit() else whoami(self.peer)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class DnsStream(Stream):
    def data_received(self, data: bytes) -> None:
        reply = dns_reply(data[2:])
        self.transport.write(struct.pack("!H", len(reply)) + reply)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(
        self, log: Callable[[str, Any, Any], None], answer: Callable[[bytes, Any], bytes]
    ) -> None:
        self.log = log
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        self.local = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.log("udp", addr, self.local)
        self.transport.sendto(self.answer(data, addr), addr)


def whoami(peer: Any) -> bytes:
    return f"{peer[0]} {peer[1]}\n".encode()


def dns_reply(query: bytes) -> bytes:
    """Answer the question with one A record; other types get an empty answer (RFC 1035, 4.1)."""
    end = query.index(b"\0", 12) + 5
    is_a = query[end - 4 : end - 2] == b"\0\1"
    head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, int(is_a), 0, 0)
    address = socket.inet_aton(DNS_ANSWER)
    record = struct.pack("!HHHLH", 0xC00C, 1, 1, 60, 4) + address if is_a else b""
    return head + query[12:end] + record


def bound(address: str, port: int, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    made.bind((address, port))
    made.setblocking(False)
    return made


async def serve(options: argparse.Namespace, log: Callable[[str, Any, Any], None]) -> None:
    loop = asyncio.get_running_loop()
    streams: list[tuple[int, type[Stream]]] = [(port, EchoStream) for port in options.echo]
    streams += [(options.http, HttpStream), (options.dns, DnsStream)]
    answers = [(port, lambda data, peer: whoami(peer) + data) for port in options.echo]
    answers += [(options.dns, lambda data, _: dns_reply(data))]
    for address in options.address:
        for port, stream in streams:
            listening = bound(address, port, socket.SOCK_STREAM)
            await loop.create_server(partial(stream, log), sock=listening, backlog=BACKLOG)
        for port, answer in answers:
            receiving = bound(address, port, socket.SOCK_DGRAM)
            await loop.create_datagram_endpoint(partial(Datagrams, log, answer), sock=receiving)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", action="append", required=True)
    parser.add_argument("--echo", type=int, action="append", required=True)
    parser.add_argument("--http", type=int, required=True)
    parser.add_argument("--dns", type=int, required=True)
    parser.add_argument("--log", required=True)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Path(options.log).open("a", buffering=1, encoding="ascii") as file:
        asyncio.run(serve(options, partial(write_log, file)))


if __name__ == "__main__":
    main()
