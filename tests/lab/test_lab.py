"""The lab shows what it claims to show: everything else in tests/ rests on it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import topology
from tests.lab.engine import Engine
from tests.lab.topology import (
    BY_ETH,
    BY_VPN,
    CLIENT4,
    CLIENT6,
    SERVICE4,
    SERVICE6,
    VPN,
    VPN_CLIENT4,
    VPN_CLIENT6,
)
from tests.lab.wait import wait_until
from tests.lab.world import ECHO_PORT, OTHER_ECHO_PORT, PREFIX, open_world

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root

WAYS = [
    pytest.param(SERVICE4, "", CLIENT4, BY_ETH, id="v4-eth0"),
    pytest.param(SERVICE6, "", CLIENT6, BY_ETH, id="v6-eth0"),
    pytest.param(SERVICE4, VPN, VPN_CLIENT4, BY_VPN, id="v4-vpn0"),
    pytest.param(SERVICE6, VPN, VPN_CLIENT6, BY_VPN, id="v6-vpn0"),
]
TRACKED = """
table inet tracked {
  chain out {
    type filter hook output priority 0;
    ct mark set 7
  }
}
"""
PROTOCOLS = ["tcp", "udp"]


@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize(("target", "device", "source", "link"), WAYS)
def test_each_way_reaches_the_server(
    world: World, proto: str, target: str, device: str, source: str, link: str
) -> None:
    (flow,) = world.app("alpha").probe(proto, target, device=device)

    assert (flow.ok, flow.error, flow.peer_seen) == (True, None, source)
    assert flow.src.rpartition(":")[0].strip("[]") == source
    (seen,) = world.seen()
    assert (seen.proto, seen.peer, seen.peer_port) == (proto, source, flow.peer_port)
    assert (seen.to, seen.port) == (target, ECHO_PORT)
    (arrived,) = world.arrivals.flows()
    assert arrived == (link, source, proto, ECHO_PORT, flow.peer_port, 1)
    assert {item.link for item in world.arrivals.flows()} == {link}


def test_each_port_and_address_is_served(world: World) -> None:
    app = world.app("alpha")
    for target in (topology.OTHER4, topology.OTHER6):
        (flow,) = app.probe("udp", target, port=OTHER_ECHO_PORT)
        assert flow.ok
    assert [seen.to for seen in world.seen(port=OTHER_ECHO_PORT)] == [
        topology.OTHER4,
        topology.OTHER6,
    ]


def test_counters_see_every_packet_and_forget(world: World) -> None:
    app = world.app("alpha")
    flows = app.probe("udp", count=3, messages=4)
    assert all(flow.ok for flow in flows)
    assert len(world.arrivals.flows(proto="udp", port=ECHO_PORT)) == 3
    assert world.arrivals.packets(link=BY_ETH, proto="udp") == 12
    world.arrivals.assert_none(link=BY_VPN)
    with pytest.raises(AssertionError, match="must not"):
        world.arrivals.assert_none(link=BY_ETH)

    world.forget()

    world.arrivals.assert_none()
    assert world.seen() == []


def test_counters_see_the_midst_of_tcp_flows(world: World) -> None:
    world.app("alpha").probe("tcp", messages=5)
    assert [flow.packets for flow in world.arrivals.flows(proto="tcp")] == [1]
    assert world.arrivals.packets(proto="tcp") > 5


def test_a_wrong_condition_is_refused(world: World) -> None:
    with pytest.raises(AssertionError, match="no such condition"):
        world.arrivals.assert_none(device=BY_VPN)
    with pytest.raises(AssertionError, match="no such condition"):
        world.seen(protocol="tcp")


def test_failures_have_names(world: World) -> None:
    app = world.app("alpha")
    (refused,) = app.probe("tcp", port=9)
    (refused_udp,) = app.probe("udp", port=9)
    (silent,) = app.probe("tcp", "203.0.113.77", timeout=0.1)
    assert refused.error == refused_udp.error == "ECONNREFUSED"
    assert silent.error in {"ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"}
    assert [refused.ok, refused_udp.ok, silent.ok] == [False] * 3


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_ten_thousand_flows_at_once(world: World, proto: str) -> None:
    flows = world.app("alpha").probe(proto, count=10_000, burst=True, timeout=60)
    assert [flow.error for flow in flows if not flow.ok] == []
    assert len({flow.cookie for flow in flows}) == 10_000
    assert len({(seen.peer, seen.peer_port) for seen in world.seen()}) == 10_000
    assert len(world.arrivals.flows(link=BY_ETH, proto=proto)) == 10_000


def test_a_local_port_can_be_chosen(world: World) -> None:
    flows = world.app("alpha").probe("udp", count=2, local_port=5000, bind=CLIENT4)
    assert [flow.src for flow in flows] == [f"{CLIENT4}:5000", f"{CLIENT4}:5001"]


def test_a_held_flow_stays_open(world: World) -> None:
    probe = world.app("alpha").start_probe("tcp", count=2)
    first = probe.next()
    assert first.ok
    assert first.pid == probe.pid
    assert first.src in world.client.sh("ss -Htn state established").replace("%eth0", "")
    (second,) = probe.finish()
    assert second.ok


def test_apps_are_programs_of_their_own(world: World) -> None:
    paths = []
    for name in ("alpha", "beta"):
        app = world.app(name)
        probe = app.start_probe("tcp")
        assert probe.next().ok
        assert Path(f"/proc/{probe.pid}/exe").readlink() == app.path
        probe.finish()
        paths.append(app.path.stat().st_ino)
    assert len(set(paths)) == 2


def test_any_command_can_be_an_app(world: World) -> None:
    page = world.app("fetcher", "curl").run("-sS", f"http://{SERVICE4}:8000/").stdout
    assert page.split()[0] == CLIENT4


def test_http_gives_as_many_bytes_as_asked(world: World) -> None:
    url = f"http://[{SERVICE6}]:8000/100000"
    assert len(world.client.run(["curl", "-sS", url]).stdout) == 100_000


@pytest.mark.parametrize("option", ["+tcp", "+notcp"])
@pytest.mark.parametrize("server", [SERVICE4, SERVICE6])
def test_dns_answers(world: World, server: str, option: str) -> None:
    answer = world.client.run(["dig", "+short", option, f"@{server}", "any.example"])
    assert ip_address(answer.stdout.strip()) == ip_address(SERVICE4)


def test_iperf_runs(world: World) -> None:
    report = world.client.json("iperf3", "-J", "-c", SERVICE4, "-n", "1M")
    assert report["end"]["sum_received"]["bytes"] > 0


def test_another_user_can_run_programs(world: World) -> None:
    assert world.client.run(["id", "-u"], user=65534).stdout == "65534\n"


def test_another_user_can_open_flows(world: World) -> None:
    app = world.app("alpha")
    (flow,) = app.probe("tcp", user=65534)
    assert flow.ok
    probe = app.start_probe("udp", user=65534)
    assert probe.next().ok
    assert Path(f"/proc/{probe.pid}/exe").readlink() == app.path
    assert Path(f"/proc/{probe.pid}").stat().st_uid == 65534


def test_a_function_runs_inside(world: World) -> None:
    links = world.client.call(socket.if_nameindex)
    assert {name for _, name in links} == {"lo", "eth0", "vpn0"}
    assert {name for _, name in links} != {name for _, name in socket.if_nameindex()}


def test_cgroups_stay_visible_inside(world: World) -> None:
    assert world.client.sh("cat /proc/mounts") == Path("/proc/mounts").read_text()


def test_an_untouched_client_has_not_changed(world: World) -> None:
    before = world.client.snapshot()
    world.app("alpha").probe("tcp", count=10)
    assert before.diff(world.client.snapshot()) == []
    assert world.client.snapshot() == before


@pytest.mark.parametrize(
    "change",
    [
        "nft add table inet extra",
        "ip rule add pref 7 fwmark 1 lookup 9",
        "ip -6 rule add pref 7 fwmark 1 lookup 9",
        "ip route add 10.9.0.0/16 dev eth0 table 9",
        "ip -6 route add 2001:db8:9::/48 dev eth0 table 9",
        "ip addr add 10.8.0.1/24 dev eth0",
        "ip tuntap add mode tun name left0",
        "ip link set eth0 mtu 1400",
        "tc qdisc add dev eth0 clsact",
        "echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark",
        "echo 2 > /proc/sys/net/ipv4/conf/eth0/rp_filter",
    ],
)
def test_a_change_shows(own_world: World, change: str) -> None:
    before = own_world.client.snapshot()
    own_world.client.sh(change)
    after = own_world.client.snapshot()
    assert before != after
    assert before.diff(after)


def test_tun_packets_are_counted(own_world: World) -> None:
    client = own_world.client
    client.sh("ip tuntap add mode tun name tunowner0; ip link set tunowner0 up")
    assert client.tun_packets() == 0


def test_a_sysctl_can_be_set(own_world: World) -> None:
    key = "net.ipv4.conf.all.rp_filter"
    assert own_world.client.sysctl(key, 1) == "0"
    assert own_world.client.sysctl(key) == "1"


def _left(token: str) -> list[str]:
    names = [*topology.existing(), *(path.name for path in Path("/tmp").iterdir())]
    return [name for name in names if name.startswith(PREFIX + token)]


def _alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie whose parent has not looked yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_nothing_is_left_after_a_failure() -> None:
    with pytest.raises(KeyboardInterrupt), open_world() as world:
        pids = [world.client.popen(["setsid", "sleep", "1000"]).pid for _ in range(3)]
        pids += [server.pid for server in world.servers]
        raise KeyboardInterrupt
    assert _left(world.token) == []
    assert not any(_alive(pid) for pid in pids)


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    script = """
        from tests.lab.world import open_world
        import signal
        with open_world() as world:
            print(world.token, world.client.popen(["sleep", "1000"]).pid, flush=True)
            signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        token, pid = process.stdout.readline().split()
        assert _left(token)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not _left(token) and not _alive(int(pid)), "the reaper")


def test_known_flows_are_listed_and_forgotten(own_world: World) -> None:
    client = own_world.client
    client.run(["nft", "-f", "-"], stdin=TRACKED)
    (flow,) = own_world.app("alpha").probe("udp")
    words = ("udp", f"sport={flow.peer_port}", "mark=7")
    assert len(client.conntrack(*words)) == 1
    client.flush_conntrack()
    assert client.conntrack(*words) == []


def test_programs_heed_interrupts_though_we_run_in_the_background() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with open_world() as world:
            sleeper = world.client.popen(["sleep", "1000"], stdout=subprocess.PIPE)
            wait_until(lambda: world.client.pids() == [sleeper.pid], "sleep to have entered")
            sleeper.send_signal(signal.SIGINT)
            assert sleeper.wait(10) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def _fake_engine(world: World, script: str) -> Engine:
    errors = world.folder / "stderr"
    with errors.open("w") as sink:
        process = world.client.popen(
            [sys.executable, "-uSc", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=sink
        )
    engine = Engine(process, errors)
    world.engines.append(engine)
    return engine


POLITE = """
    import signal, sys
    try:
        print('{"event": "ready"}')
        print('no json')
        print('{"event": "open", "src": "a", "owner": {"pid": 1}}')
        signal.pause()
    except KeyboardInterrupt:
        print('{"event": "stopped", "flows": 1}')
        sys.exit(3)
"""


def test_the_engine_handle_follows_events(world: World) -> None:
    engine = _fake_engine(world, POLITE)
    engine.wait_for_event("ready")
    assert engine.wait_for(lambda event: event.get("src") == "a")["owner"] == {"pid": 1}
    assert engine.matching(event="open", src="b") == []
    assert len(engine.matching(event="open")) == 1
    assert engine.stop() == 3
    assert engine.stopped["flows"] == 1
    assert engine.text == ["no json\n"]


def test_the_engine_handle_can_kill(world: World) -> None:
    engine = _fake_engine(world, POLITE)
    engine.wait_for_event("ready")
    engine.kill()
    assert engine.stop() == -signal.SIGKILL
    with pytest.raises(AssertionError, match="in vain"):
        engine.wait_for_event("stopped")


def test_the_engine_handle_shows_why_there_is_no_engine(world: World) -> None:
    engine = _fake_engine(world, "import sys; sys.exit('no such device')")
    with pytest.raises(AssertionError, match=r"exit status 1.*no such device"):
        engine.wait_for_event("ready")


RULES = "version: 1\ndefaults: { action: direct, when_unknown: direct }\n"


def test_the_real_engine_can_be_stopped(world: World) -> None:
    engine = world.engine(RULES)
    (flow,) = world.app("alpha").probe("tcp")
    event = engine.wait_for_event("open", src=flow.src, dst=flow.dst)
    assert event["owner"]["pid"] == flow.pid
    assert engine.stop() == 0, engine.stderr
    assert "statistics" in engine.stopped


def test_the_real_engine_can_be_killed(own_world: World) -> None:
    engine = own_world.engine(RULES)
    engine.kill()
    assert own_world.app("alpha").probe("tcp")[0].ok
