"""What the gate costs, beside the same without it: `python -m tests.bench.bench_gate` (root).

Everything is measured in rounds, with and without the engine by turns, and the medians are shown;
remarks below the table tell how much the peer differed from itself meanwhile. Nothing is asserted
about time. Choose parts by name, `--quick` for a look, `--json` for a program.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from tests.bench.report import Report, percentile
from tests.bench.stage import (
    CLOSED_PORT,
    ECHO_PORT,
    SINK_PORT,
    Client,
    RunningEngine,
    Stage,
    open_stage,
    processors_awake,
    seconds_until_ready,
)
from tests.lab.engine import ROOT
from tests.lab.topology import CLIENT4, SERVICE4, VPN, VPN_CLIENT4
from tests.lab.world import IPERF_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = defaultdict[str, list[float]]


def throughput(stage: Stage, report: Report, *, quick: bool) -> None:
    """TCP with one stream, up and down, by every way with and without the engine."""
    seconds, rounds = (1, 2) if quick else (3, 5)
    direct, via = (stage.world.app(f"{way}-iperf3", "iperf3") for way in ("direct", "via"))
    gbits: Samples = defaultdict(list)

    def measure(name: str, app: Any, *options: str) -> None:
        for way, flags in (("up", ()), ("down", ("-R",))):
            command = ["-c", SERVICE4, "-p", str(IPERF_PORT), "-t", str(seconds), "-J"]
            done = json.loads(app.run(*command, *flags, *options).stdout)
            gbits[f"{name} {way}"].append(done["end"]["sum_received"]["bits_per_second"] / 1e9)

    stage.world.arrivals.remove()
    for _ in range(rounds):
        measure("plain", direct)
        measure("plain-vpn", via, "--bind-dev", VPN, "-B", VPN_CLIENT4)
        with stage.engine():
            measure("direct", direct)
            measure("via", via)
    stage.world.arrivals.install()
    middle = {name: statistics.median(values) for name, values in gbits.items()}
    for name, peer, least in (("direct", "plain", 0.95), ("via", "plain-vpn", 0.90)):
        for way in ("up", "down"):
            report.add(
                f"throughput, {name}, {way}",
                middle[f"{name} {way}"],
                "Gbit/s",
                peer=middle[f"{peer} {way}"],
                peer_is="without",
                at_least=least,
                of="ratio",
            )
            report.noise(f"{peer} throughput {way}, Gbit/s", gbits[f"{peer} {way}"])


def latency(stage: Stage, report: Report, *, quick: bool) -> None:
    """Connect + one byte there and back, 1,000 flows of a program that the engine has seen.

    Twice: as the machine is, and with its processors kept from sleeping. A new flow wakes two
    sleepers more than without the engine, itself and the program; what that costs belongs to the
    machine, and a virtual one may ask 40 us for each.
    """
    stage.world.arrivals.remove()
    _latency(stage, report, quick=quick, at_most=150)
    with processors_awake():
        _latency(stage, report, quick=quick, at_most=100, condition=", awake")
    stage.world.arrivals.install()


def _latency(
    stage: Stage, report: Report, *, quick: bool, at_most: float, condition: str = ""
) -> None:
    count, rounds = (50, 2) if quick else (100, 10)
    clients = {way: stage.client(f"{way}-client") for way in ("direct", "via", "block")}
    us: Samples = defaultdict(list)
    medians: Samples = defaultdict(list)
    looked: list[float] = []
    packets = flows = 0
    failed = Counter[str]()

    def measure(name: str, client: Client, proto: str, **order: Any) -> None:
        order = {"proto": proto, "port": ECHO_PORT, **order}
        client.order("one-by-one", **{**order, "count": 3})  # so that it is known
        answer = client.order("one-by-one", **order, count=count)
        for error, number in answer["errors"].items():
            failed[f"{proto} {name}: {error}"] += number
        spent = answer["us"]
        us[f"{proto} {name}"] += spent
        medians[f"{proto} {name}"].append(statistics.median(spent))

    for _ in range(rounds):
        for proto in ("tcp", "udp"):
            measure("plain", clients["direct"], proto)
            measure("plain-vpn", clients["via"], proto, device=VPN)
        measure("plain-closed", clients["block"], "tcp", port=CLOSED_PORT)
        stage.forget()
        with stage.engine() as engine:
            for proto in ("tcp", "udp"):
                for way, client in clients.items():
                    measure(way, client, proto)
            packets += stage.world.client.tun_packets()
            looked += [event["lookup_us"] for event in engine.opened()]
            flows += engine.stop()["flows"]
        stage.forget()
    for proto in ("tcp", "udp"):
        closed = "tcp plain-closed" if proto == "tcp" else "udp plain"
        peers = {"direct": f"{proto} plain", "via": f"{proto} plain-vpn", "block": closed}
        for way, peer in peers.items():
            _show_latency(report, us, f"{proto} {way}", peer, at_most, condition)
        report.noise(f"{proto} plain{condition} p50, us", medians[f"{proto} plain"])
    # EPERM is what send() says of a datagram whose port's last flow was blocked a moment ago.
    expected = ("tcp block: ECONNREFUSED", "udp block: ECONNREFUSED", "udp block: EPERM")
    refused = sum(failed.pop(name, 0) for name in expected)
    failed.pop("tcp plain-closed: ECONNREFUSED", None)
    report.add(f"blocked flows not refused{condition}", 2 * count * rounds - refused, "", at_most=0)
    wrong = {name: number for name, number in failed.items() if "plain" not in name}
    report.add(f"other flows that failed{condition}", sum(wrong.values()), "", at_most=0)
    if failed:
        report.remark(f"failed{condition}: {dict(failed)}")
    report.add(f"TUN packets per flow{condition}", packets / flows, "", at_most=1.0)
    report.add(f"owner look-up, p50{condition}", percentile(looked, 50), "us")


def _show_latency(
    report: Report, us: Samples, ours: str, peer: str, at_most: float, condition: str
) -> None:
    for percent in (50, 99):
        report.add(
            f"new flow, {ours}, p{percent}{condition}",
            percentile(us[ours], percent),
            "us",
            peer=percentile(us[peer], percent),
            peer_is=peer.partition(" ")[2],
            at_most=at_most if percent == 50 else None,
            of="added",
        )


def flood(stage: Stage, report: Report, *, quick: bool) -> None:
    """New flows per second of four programs at once; all must arrive, by the right way."""
    count, rounds = (500, 1) if quick else (2_500, 5)
    clients = [stage.client(f"direct-flood{number}") for number in range(4)]
    others = [stage.client(f"via-flood{number}") for number in range(4)]
    rates: Samples = defaultdict(list)
    cpu: Samples = defaultdict(list)
    lost = Counter[str]()

    def measure(name: str, senders: list[Client], proto: str, engine: RunningEngine | None) -> None:
        order = {"proto": proto, "port": SINK_PORT if proto == "tcp" else ECHO_PORT}
        used = engine.cpu_seconds() if engine else 0.0
        begun = time.perf_counter()
        for client in senders:
            client.start("many-at-once", **order, window=64, count=count)
        for client in senders:
            for outcome, number in client.answer()["outcomes"].items():
                lost[outcome if engine else f"without the engine: {outcome}"] += number
        total = count * len(senders)
        rates[f"{proto} {name}"].append(total / (time.perf_counter() - begun))
        if engine:
            cpu[f"{proto} {name}"].append((engine.cpu_seconds() - used) / total * 1e6)

    for _ in range(rounds):
        for proto in ("tcp", "udp"):
            measure("plain", clients, proto, None)
        stage.forget()
        stage.world.arrivals.reset()
        with stage.engine() as engine:
            for proto in ("tcp", "udp"):
                measure("direct", clients, proto, engine)
                measure("via", others, proto, engine)
            counters = engine.stop()
        _check_ways(stage, lost)
        lost["engine dropped"] += sum(counters[name] for name in DROPS)
        stage.forget()
    for name in ("tcp direct", "udp direct", "tcp via", "udp via"):
        proto, way = name.split()
        report.add(
            f"new flows per second, {name}",
            statistics.median(rates[name]),
            "/s",
            peer=statistics.median(rates[f"{proto} plain"]),
            peer_is="without",
            at_least=5_000 if way == "direct" else None,
        )
        report.add(f"engine's processor time per flow, {name}", statistics.median(cpu[name]), "us")
    report.noise("plain tcp flows per second", rates["tcp plain"])
    _show_lost(report, lost)


def _show_lost(report: Report, lost: Counter[str]) -> None:
    good, _ = lost.pop("ok"), lost.pop("without the engine: ok")
    odd = {name: number for name, number in lost.items() if number}
    wrong = [number for name, number in odd.items() if not name.startswith("without")]
    report.add("flows lost or gone the wrong way", sum(wrong), f"of {good}", at_most=0)
    if odd:
        report.remark(f"lost: {odd}")


DROPS = ("dropped_flow_full", "dropped_table_full", "lookup_timeouts", "lost", "events_dropped")


def _check_ways(stage: Stage, lost: Counter[str]) -> None:
    """Count opening packets of flows that came from the address of the other way."""
    arrivals = stage.world.arrivals
    sources = {"by-eth": CLIENT4, "by-vpn": VPN_CLIENT4}
    for link, source in sources.items():
        lost["from the wrong address"] += arrivals.packets(link=link)
        lost["from the wrong address"] -= arrivals.packets(link=link, source=source)


def memory(stage: Stage, report: Report, *, quick: bool) -> None:
    """Memory of an idle engine, and whether flows make it grow."""
    share = 500 if quick else 12_500  # the tables are full after 100,000 flows
    clients = [stage.client(f"direct-many{number}") for number in range(4)]
    with stage.engine() as engine:
        sizes = [engine.memory()]
        for proto, port in (("tcp", SINK_PORT), ("udp", ECHO_PORT)) * 2:
            for client in clients:
                client.start("many-at-once", proto=proto, port=port, window=32, count=share)
            for client in clients:
                client.answer()
            sizes.append(engine.memory())
    stage.forget()
    total = 4 * 4 * share
    idle, half, end = sizes[0], sizes[2], sizes[4]
    report.add("memory when idle, RSS", idle["rss"], "MiB", at_most=60)
    report.add("memory when idle, USS", idle["uss"], "MiB")
    report.add(f"RSS after {total} flows", end["rss"], "MiB", peer=idle["rss"], peer_is="idle")
    report.add("  of it from the second half", end["rss"] - half["rss"], "MiB", at_most=2)


def start(stage: Stage, report: Report, *, quick: bool) -> None:
    """From exec to `ready`, and a whole `tunowner who`."""
    rounds = 3 if quick else 11
    command = [sys.executable, "-m", "tunowner", "who", "tcp", f"{SERVICE4}:{ECHO_PORT}"]
    psutil = f"""
import psutil
wanted = ("{SERVICE4}", {ECHO_PORT})
for it in psutil.net_connections("tcp"):
    if it.laddr and tuple(it.laddr) == wanted: print(psutil.Process(it.pid).exe())
"""
    spent: Samples = defaultdict(list)

    def measure(name: str, argv: list[str]) -> None:
        begun = time.perf_counter()
        process = stage.world.internet.popen(
            argv, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        )
        out, _ = process.communicate()
        spent[name].append(time.perf_counter() - begun)
        assert process.returncode == 0, f"{name} ended with {process.returncode}"
        assert out or name == "python", f"{name} found nothing"

    for _ in range(rounds):
        spent["ready"].append(seconds_until_ready(stage))
        measure("who", command)
        measure("psutil", [sys.executable, "-c", psutil])
        measure("python", [sys.executable, "-c", ""])
    middle = {name: statistics.median(values) for name, values in spent.items()}
    bare = middle["python"]
    report.add(
        "run: exec to ready", middle["ready"], "s", peer=bare, peer_is="bare python", at_most=0.7
    )
    report.add(
        "who: whole process",
        middle["who"],
        "s",
        peer=middle["psutil"],
        peer_is="psutil",
        at_most=0.2,
    )
    report.noise("start of a bare python, s", spent["python"])


PARTS: dict[str, Callable[..., None]] = {
    "throughput": throughput,
    "latency": latency,
    "flood": flood,
    "memory": memory,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="few rounds: only to see it work")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    report = Report()
    os.setpriority(os.PRIO_PROCESS, 0, -20)  # and of all it starts: others disturb it less
    with open_stage() as stage:
        for name in options.parts or PARTS:
            print(f"{name} ...", file=sys.stderr)
            PARTS[name](stage, report, quick=options.quick)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
