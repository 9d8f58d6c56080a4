"""Split tunnelling in a few lines: a TUN loop that asks the Companion about every packet.

    sudo python examples/split_tunnel.py --rules my-rules.yaml        # Ctrl-C ends it

Everything that would leave by a default route comes to a TUN device instead. Each packet is sent on
as the rules say: `direct` as before, an outbound of `type: interface` by that interface and no
other, `block` answered with an ICMP error, `drop` with silence. Answers come back past us, since
the source address stays the one that the packet would have had.

This is how a VPN client embeds tunowner; its own tunnel would stand where `send` is. For real use
`tunowner run` is faster: it sees a flow's first packet only, and the kernel carries the rest.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tunowner import Companion, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEVICE = "split0"
MARK = TABLE = 7741
"""What we send carries this mark; what does not is routed by the table of the same number."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # <linux/if_tun.h>
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def ip(*words: str) -> str:
    """Run `ip WORDS` and return what it prints."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def open_tun() -> int:
    """Create the TUN device. It goes away with its descriptor, and takes its routes with it."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", DEVICE, "addrgenmode", "none", "up")
    return tun


@contextmanager
def routes_to_tun() -> Iterator[None]:
    """Route to the TUN, for as long as this lasts, whatever has nothing better than a default."""
    with ExitStack() as undo:
        for version in ("-4", "-6"):
            source = usual_source(version)
            if source is None:
                continue
            ip(
                version,
                "route",
                "add",
                "default",
                "dev",
                DEVICE,
                "table",
                str(TABLE),
                "src",
                source,
            )
            for rule in (
                f"pref {TABLE - 1} lookup main suppress_prefixlength 0",  # the LAN stays as it is
                f"pref {TABLE} not fwmark {MARK} lookup {TABLE}",
            ):
                ip(version, "rule", "add", *rule.split())
                undo.callback(ip, version, "rule", "del", *rule.split())
        yield


def usual_source(version: str) -> str | None:
    """Return the address that this machine would send from; None where nothing leads out."""
    routes = json.loads(ip(version, "-j", "route", "show", "default") or "[]")
    if not routes:
        return None
    best = min(routes, key=lambda route: route.get("metric", 0))
    addresses = json.loads(
        ip(version, "-j", "address", "show", "dev", best["dev"], "scope", "global")
    )
    found = (info["local"] for entry in addresses for info in entry.get("addr_info", ()))
    return best.get("prefsrc") or next(found, None)


class Sender:
    """Sends whole IP packets, with our mark so that they do not come back to the TUN."""

    def __init__(self, outbounds: Mapping[str, object]) -> None:
        devices = {name: getattr(it, "interface", None) for name, it in outbounds.items()}
        if None in devices.values():
            raise SystemExit("this example knows outbounds of type interface only")
        self._sockets = {
            (action, version): self._open(family, device)
            for action, device in {"direct": None, **devices}.items()
            for version, family in FAMILIES.items()
        }

    @staticmethod
    def _open(family: socket.AddressFamily, device: str | None) -> socket.socket:
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        if device is not None:  # by this interface or not at all: a kill switch
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        return raw

    def send(self, action: str, packet: bytes) -> bool:
        """Send a packet the way of an action; tell whether there was a way."""
        version = packet[0] >> 4
        family, address = FAMILIES[version], packet[16:20] if version == 4 else packet[24:40]
        try:
            target = (socket.inet_ntop(family, address), 0)
            self._sockets[action, version].sendto(packet, target)
        except OSError:
            return False
        return True


def refusal(packet: bytes) -> bytes:
    """Return the ICMP error "port unreachable" for a packet: its program gives up at once."""
    if packet[0] >> 4 == 4:
        here, there = packet[12:16], packet[16:20]
        message = with_checksum(struct.pack("!BBHI", 3, 3, 0, 0) + packet[:512], b"")
        header = struct.pack("!BBHIBBH4s4s", 0x45, 0, 20 + len(message), 0, 64, 1, 0, there, here)
        return with_checksum(header, b"", at=10) + message
    here, there = packet[8:24], packet[24:40]
    message = struct.pack("!BBHI", 1, 4, 0, 0) + packet[:1024]
    pseudo = there + here + struct.pack("!II", len(message), 58)
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), 58, 64, there, here)
    return header + with_checksum(message, pseudo)


def with_checksum(data: bytes, before: bytes, at: int = 2) -> bytes:
    """Return `data` with its Internet checksum (RFC 1071), over `before` too, put in at `at`."""
    padded = before + data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack("!H", ~total & 0xFFFF) + data[at + 2 :]


def loop(tun: int, companion: Companion, sender: Sender) -> None:
    """Decide and carry packets until a signal ends it."""
    while True:
        packet = os.read(tun, 65535)
        begun = time.monotonic()
        decision = companion.decide(packet)
        if decision.owner.resolved_at >= begun:  # a flow that was not known
            process = decision.owner.process
            name = f"{process.name}[{process.pid}]" if process else f"({decision.owner.grade})"
            print(f"{decision.action} {name} {decision.why}", flush=True)
        if decision.action == "drop":
            continue
        if decision.action == "block" or not sender.send(decision.action, packet):
            os.write(tun, refusal(packet))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rules", required=True, help="a rule file, or a folder of them")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            tun = open_tun()
            stack.callback(os.close, tun)
            index = socket.if_nametoindex(DEVICE)
            companion = stack.enter_context(Companion.load(options.rules, interface=index))
            sender = Sender(companion.outbounds)
            stack.enter_context(routes_to_tun())
            print("ready", flush=True)
            loop(tun, companion, sender)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except (TunOwnerError, OSError) as error:
        raise SystemExit(f"split_tunnel: {error}") from None


if __name__ == "__main__":
    main()
