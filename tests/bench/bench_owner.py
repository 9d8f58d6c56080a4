"""How long an owner lookup takes: `python -m tests.bench.bench_owner [--fds 100]`.

Beside it psutil, ss, lsof and gopsutil, in the same run, where they are installed. Details go to
standard error. Nothing is asserted about time; a wrong owner ends the run with an error.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import socket
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.children import Child, packed
from tests.bench.peers import PSUTIL_FINDER, Peers, in_turns
from tests.bench.report import Report, percentile
from tunowner.backends.linux.bpf.loader import OwnerMap
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.sockdiag import SockDiag
from tunowner.core.model import TCP, UDP, FlowKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANY = "a, n = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(n)]; tell(*s); wait()"


def show(name: str, seconds: list[float]) -> None:
    p50, p99 = (percentile(seconds, part) * 1e6 for part in (50, 99))
    print(f"{name:<64} p50 {p50:8.1f} us   p99 {p99:8.1f} us", file=sys.stderr)


def timed(action: Callable[[], object], rounds: int) -> list[float]:
    spent = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        spent.append(time.perf_counter() - begun)
    return spent


def flow_of(sock: socket.socket, remote: tuple[str, int], protocol: int = TCP) -> FlowKey:
    local = sock.getsockname()
    address = "127.0.0.1" if local[0] == "0.0.0.0" else local[0]
    return FlowKey(protocol, packed(address), local[1], packed(remote[0]), remote[1])


def connections(listener: socket.socket) -> Iterator[tuple[socket.socket, FlowKey]]:
    """Open connection after connection, each closed before the next."""
    while True:
        with socket.create_connection(listener.getsockname()) as sock, listener.accept()[0]:
            yield sock, flow_of(sock, listener.getsockname())


def connected_udp() -> Iterator[tuple[socket.socket, FlowKey]]:
    """Connect socket after socket, each closed before the next."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.9", 9))
            yield sock, flow_of(sock, ("127.0.0.9", 9), UDP)


def new_sockets(
    source: LinuxOwners, opened: Iterator[tuple[socket.socket, FlowKey]]
) -> list[float]:
    """Ask for 2,000 sockets that were opened a moment ago by a process seen before."""
    spent, missed = [], 0
    for _ in range(2000):
        _, flow = next(opened)
        begun = time.perf_counter()
        owner = source.quick(flow)
        spent.append(time.perf_counter() - begun)
        if owner is None:
            missed += 1
        elif owner.process is None or owner.process.pid != os.getpid():
            raise SystemExit(f"wrong owner: {owner}")
    if missed:
        print(f"  (needed a walk: {missed} of {len(spent)})", file=sys.stderr)
    return spent


def single(fds: int, report: Report) -> None:
    """Lookups one at a time, in this process with `fds` descriptors open."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        source = stack.enter_context(LinuxOwners(interface=socket.if_nametoindex("lo")))
        kept = [stack.enter_context(socket.socket()) for _ in range(fds - 20)]
        opened = connections(listener)
        _, flow = next(opened)
        list(source.walk([flow]))
        diag = SockDiag()
        show("exact sock_diag query, TCP, checked", timed(lambda: diag.sockets(flow, 1), 5000))
        show("owner, socket seen before", timed(lambda: source.quick(flow), 5000))
        spent = new_sockets(source, opened)
        what = f"owner by /proc, new socket, process seen before ({fds} fds)"
        show(what, spent)
        report.add(f"{what}, p50", percentile(spent, 50) * 1e6, "us", at_most=60)
        show(
            "  the same, descriptor number at random",
            new_sockets(source, at_random(kept, listener)),
        )
        spent = new_sockets(source, connected_udp())
        what = f"owner by /proc, new connected UDP socket, process seen before ({fds} fds)"
        show(what, spent)
        report.add(f"{what}, p50", percentile(spent, 50) * 1e6, "us", at_most=60)
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("", 0))
        wild = flow_of(udp, ("127.0.0.9", 9), UDP)
        list(source.walk([wild]))
        show("owner, UDP unconnected (exact + 2 dumps)", timed(lambda: source.quick(wild), 1000))
        absent = FlowKey(TCP, packed("192.0.2.1"), 1, packed("192.0.2.2"), 2)
        show("no such socket, TCP", timed(lambda: source.quick(absent), 5000))
        show("cold: first flow of a process (quick + walk)", timed(lambda: cold(flow), 50))
        opened.close()  # type: ignore[attr-defined]


def by_ebpf(sockets: int, report: Report) -> None:
    """Lookups by the kernel's notes, with few and with many sockets open; needs root."""
    with own_cgroup() as cgroup, ExitStack() as stack:
        source = stack.enter_context(LinuxOwners(interface=1, bpf=OwnerMap(cgroup)))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        few = ebpf_lookups(source, listener, 100)
        children = [
            stack.enter_context(Child(MANY, listener_of(stack), sockets // 50)) for _ in range(50)
        ]
        told = [(child.pid, truth.flow()) for child in children for truth in child.hear()]
        many = ebpf_lookups(source, listener, len(told))
        spent = [timed(lambda flow=flow: source.quick(flow), 1)[0] for _, flow in told[::5]]  # type: ignore[misc]
        show(f"eBPF: owner, any of {len(told)} sockets of 50 processes", spent)
        for pid, known in told[::7]:
            owner = source.quick(known)
            if owner is None or owner.process is None or owner.process.pid != pid:
                raise SystemExit(f"wrong owner: {owner}")
        what = f"owner by eBPF, {len(told)} sockets open, p50"
        report.add(what, many, "us", at_most=15)
        report.add(what, many, "us", peer=few, peer_is="100 open", at_most=1.2, of="ratio")
        report.add(f"{what}, caches cold", cold_caches(source, listener), "us")
        beside_peers(report, stack, what, many, random.choice(told))
    with own_cgroup() as cgroup:
        hook_cost(cgroup, report)


def beside_peers(
    report: Report, stack: ExitStack, what: str, ours: float, known: tuple[int, FlowKey]
) -> None:
    """Find the process of one of the sockets by what else there is."""
    pid, flow = known
    local = socket.inet_ntoa(flow.local), flow.local_port
    spent = in_turns(Peers(stack, report).finders(local, pid), 7)
    for name, seconds in spent.items():
        limit = 1e-4 if name == PSUTIL_FINDER else None
        middle = percentile(seconds, 50) * 1e6
        report.add(what, ours, "us", peer=middle, peer_is=name, at_most=limit, of="ratio")
        report.noise(f"{name}, us", [second * 1e6 for second in seconds])


def cold_caches(source: LinuxOwners, listener: socket.socket) -> float:
    """Look new sockets up after a pause in which other memory was used, as between two packets."""
    other, spent, opened = bytearray(16 << 20), [], connections(listener)
    for _ in range(100):
        _, flow = next(opened)
        other[::4096] = bytes(len(other[::4096]))
        time.sleep(0.02)
        spent += timed(lambda flow=flow: source.quick(flow), 1)  # type: ignore[misc]
    opened.close()  # type: ignore[attr-defined]
    return percentile(spent, 50) * 1e6


def listener_of(stack: ExitStack) -> tuple[str, int]:
    """Listen once more: the queue of a listener is bounded by net.core.somaxconn."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
    address: tuple[str, int] = listener.getsockname()
    return address


def ebpf_lookups(source: LinuxOwners, listener: socket.socket, open_sockets: int) -> float:
    """Look new sockets up, each once; return the p50."""
    opened = connections(listener)
    _, flow = next(opened)
    list(source.walk([flow]))
    spent = new_sockets(source, opened)
    show(f"eBPF: owner, new TCP socket, {open_sockets} open", spent)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        flows = []
        for port in range(1, 2001):
            udp.sendto(b"x", ("127.0.0.9", port))
            flows.append(flow_of(udp, ("127.0.0.9", port), UDP))
        sent = [timed(lambda flow=flow: source.quick(flow), 1)[0] for flow in flows]  # type: ignore[misc]
    show(f"eBPF: owner, UDP sendto, {open_sockets} open", sent)
    opened.close()  # type: ignore[attr-defined]
    return percentile(spent, 50) * 1e6


def hook_cost(cgroup: Path, report: Report) -> None:
    """Connect over loopback with the hooks and without, in turns."""
    spent: dict[bool, list[list[float]]] = {True: [], False: []}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        for turn in range(40):
            with ExitStack() as stack:
                if turn % 2:
                    stack.enter_context(OwnerMap(cgroup))
                spent[bool(turn % 2)].append([connect(listener) for _ in range(500)])
    plain, hooked = (
        percentile([it for turn in spent[key] for it in turn], 50) * 1e6 for key in (False, True)
    )
    what = "loopback connect() with the eBPF hooks, p50"
    report.add(what, hooked, "us", peer=plain, peer_is="without", at_most=1.1, of="ratio")
    for key, name in ((False, "without"), (True, "with")):
        report.noise(f"connect() {name}, us", [percentile(it, 50) * 1e6 for it in spent[key]])


def connect(listener: socket.socket) -> float:
    with socket.socket() as sock:
        begun = time.perf_counter()
        sock.connect(listener.getsockname())
        spent = time.perf_counter() - begun
    listener.accept()[0].close()
    return spent


def at_random(
    kept: list[socket.socket], listener: socket.socket
) -> Iterator[tuple[socket.socket, FlowKey]]:
    """Close a socket somewhere in the table; the next one takes its number."""
    while True:
        place = random.randrange(len(kept))
        kept[place].close()
        kept[place] = socket.create_connection(listener.getsockname())
        listener.accept()[0].close()
        yield kept[place], flow_of(kept[place], listener.getsockname())


def cold(flow: FlowKey) -> None:
    with LinuxOwners(interface=1) as source:
        list(source.walk([flow]))


def batch(processes: int, sockets: int) -> None:
    """Open many flows in many processes, then answer all of them in batches of 256 and at once."""
    with ExitStack() as stack:
        truth: dict[FlowKey, int] = {}
        for _ in range(processes):  # a listener each: the queue is bounded by net.core.somaxconn
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            child = stack.enter_context(Child(MANY, listener.getsockname(), sockets))
            told = child.hear()
            truth.update({one.flow(): child.pid for one in told})
        flows = list(truth)
        random.shuffle(flows)
        name = f"{len(flows)} flows of {processes} processes"
        for size in (len(flows), 256):
            with LinuxOwners(interface=socket.if_nametoindex("lo")) as source:
                begun = time.perf_counter()
                wrong = resolve(source, flows, size, truth)
                taken = time.perf_counter() - begun
                print(f"{name}, batches of {size}: {taken:.2f} s, wrong {wrong}", file=sys.stderr)
                if wrong:
                    raise SystemExit("wrong owners")
        with LinuxOwners(interface=1) as source:
            resolve(source, flows, len(flows), truth)
            spent = [timed(lambda flow=flow: source.quick(flow), 1)[0] for flow in flows[:1000]]  # type: ignore[misc]
            show(f"owner, socket seen before, {len(flows)} open", spent)


def resolve(source: LinuxOwners, flows: list[FlowKey], size: int, truth: dict[FlowKey, int]) -> int:
    """Ask as the engine does; return how many answers were not the truth."""
    wrong = 0
    for start in range(0, len(flows), size):
        pending = []
        for flow in flows[start : start + size]:
            owner = source.quick(flow)
            if owner is None:
                pending.append(flow)
            else:
                wrong += owner.process is None or owner.process.pid != truth[flow]
        for flow, owner in source.walk(pending):
            wrong += owner.process is None or owner.process.pid != truth[flow]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("measures the Linux backend")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    report = Report()
    if os.geteuid() == 0:
        by_ebpf(10_000, report)
    else:
        report.remark("not root: nothing is measured of eBPF")
    single(options.fds, report)
    batch(options.processes, options.sockets)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
