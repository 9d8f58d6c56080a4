"""What the engine cannot work with: one line that says so, the right status, nothing changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.engine import ROOT
from tests.lab.topology import (
    CLIENT4,
    CLIENT6,
    SERVICE4,
    SERVICE6,
    VPN_CLIENT4,
    VPN_CLIENT6,
)
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: blocked, match: { app: block-app }, action: block }
  - { name: by-vpn, match: { app: vpn-app }, action: vpn }
"""
TWO_MISTAKES = """
version: 1
rules:
  - { name: one, match: { app: x }, action: nowhere }
  - { name: two, match: { port: 99999 }, action: block }
"""
MARKED = """
version: 1
outbounds: { marked: { type: mark, mark: 0x51000000 } }
rules: [ { name: one, match: { app: x }, action: marked } ]
"""
ONE_BY_ONE = list(product(["tcp", "udp"], [SERVICE4, SERVICE6]))
NO_TUN = "mount -t tmpfs tmpfs /dev/net"
NOT_TUN = "mount --bind /dev/null /dev/net/tun"


def library() -> str:
    """The file that `libnftables.so.1` is, wherever this system has it."""
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in listed.splitlines() if "libnftables.so.1 " in line)
    return str(Path(line.split()[-1]).resolve())


def hiding(script: str) -> tuple[str, ...]:
    """A prefix that runs a command after `script`, in a mount namespace of its own."""
    return ("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh")


def refused(
    world: World,
    rules: str,
    *arguments: str,
    prefix: tuple[str, ...] = (),
    python: str = sys.executable,
    paths: tuple[Path, ...] = (),
) -> tuple[int, str]:
    """Run the engine to its end, which must be soon; return its status and what it said."""
    file = world.folder / "refused.yaml"
    file.write_text(rules, encoding="utf-8")
    before = world.client.snapshot()
    done = world.client.run(
        [*prefix, python, "-m", "tunowner", "run", "--json", "--rules", str(file), *arguments],
        env={"PYTHONPATH": ":".join(map(str, (ROOT, *paths)))},
        check=False,
        timeout=10,
        cwd="/",
    )
    assert before.diff(world.client.snapshot()) == []
    assert done.stdout == ""
    return done.returncode, done.stderr


def assert_one_line(error: str, *words: str) -> None:
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert error.startswith("tunowner: ")
    assert [word for word in words if word not in error] == [], error


def assert_works(world: World, kinds: list[tuple[str, str]] = ONE_BY_ONE) -> None:
    """Direct, block and via do as they are told."""
    for proto, target in kinds:
        (direct,) = world.app("other-app").probe(proto, target)
        (blocked,) = world.app("block-app").probe(proto, target)
        (by_vpn,) = world.app("vpn-app").probe(proto, target)
        assert direct.peer_seen in (CLIENT4, CLIENT6)
        assert blocked.error == "ECONNREFUSED"
        assert by_vpn.peer_seen in (VPN_CLIENT4, VPN_CLIENT6)


def test_root_without_capabilities(world: World) -> None:
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    status, error = refused(world, RULES, prefix=prefix)
    assert status == 4
    assert_one_line(error, "CAP_NET_ADMIN", "sudo")


@pytest.mark.parametrize("missing", ["net_admin", "net_raw"])
def test_one_capability_is_missing(world: World, missing: str) -> None:
    prefix = ("setpriv", f"--bounding-set=-{missing}", f"--inh-caps=-{missing}")
    status, error = refused(world, RULES, prefix=prefix)
    assert status == 4
    assert_one_line(error, f"CAP_{missing.upper()}", "sudo")


def test_nobody(world: World) -> None:
    site = Path(pytest.__file__).parents[1]
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    python = str(world.app("unprivileged-python"))
    system = world.app("unprivileged-python").env
    words = tuple(f"{key}={value}" for key, value in system.items())
    status, error = refused(
        world, RULES, prefix=(*prefix, "env", *words), python=python, paths=(site,)
    )
    assert status == 4
    assert_one_line(error, "CAP_NET_ADMIN", "sudo")


@pytest.mark.parametrize("how", [NO_TUN, NOT_TUN])
def test_no_tun(world: World, how: str) -> None:
    status, error = refused(world, RULES, prefix=hiding(how))
    assert status == 1
    assert_one_line(error, "TUN" if how == NOT_TUN else "/dev/net/tun")
    if how == NO_TUN:
        assert_one_line(error, "modprobe tun")


def test_neither_library_nor_command(world: World) -> None:
    hide = f"mount --bind /dev/null {library()}; PATH=/nonexistent"
    status, error = refused(world, RULES, prefix=hiding(hide))
    assert status == 1
    assert_one_line(error, "libnftables", "nft", "apt install nftables")


def command_only(world: World) -> tuple[str, ...]:
    """A prefix under which Python finds no libnftables, while `nft` does."""
    folder = world.folder / "nft"
    folder.mkdir(exist_ok=True)
    shutil.copy(library(), folder / "libnftables.so.1")
    wrapper = folder / "nft"
    wrapper.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={folder} exec {shutil.which("nft")} "$@"\n')
    wrapper.chmod(0o755)
    return hiding(f"mount --bind /dev/null {library()}; PATH={folder}:$PATH")


def test_only_the_command(world: World) -> None:
    before = world.client.snapshot()
    engine = world.engine(RULES, prefix=command_only(world))
    assert_works(world)
    assert engine.stop() == 0
    assert before.diff(world.client.snapshot()) == []


def test_what_the_command_left_when_killed_is_removed(world: World) -> None:
    before = world.client.snapshot()
    world.engine(RULES, prefix=command_only(world)).kill()
    assert "tunowner" in world.client.sh("nft list tables")
    engine = world.engine(RULES)
    assert_works(world)
    assert engine.stop() == 0
    assert before.diff(world.client.snapshot()) == []


def test_outbound_interface_absent(world: World) -> None:
    status, error = refused(world, RULES.replace("vpn0", "wg7"))
    assert status == 1
    assert_one_line(error, "wg7", "outbound 'vpn'", "eth0, vpn0")


def test_outbound_interface_without_address(world: World) -> None:
    world.client.sh("ip link add bare0 type veth peer name bare1; ip link set bare0 up")
    try:
        status, error = refused(world, RULES.replace("vpn0", "bare0"))
    finally:
        world.client.sh("ip link del bare0")
    assert status == 1
    assert_one_line(error, "bare0", "outbound 'vpn'", "address")


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_byte_in_use_by_a_policy_rule(world: World, family: str) -> None:
    world.client.sh(f"ip {family} rule add pref 900 fwmark 0x7000000/0xf000000 lookup 50")
    try:
        status, error = refused(world, RULES)
        assert status == 1
        assert_one_line(error, "0xff000000", "900", "0x7000000", "--mark-byte")
        world.engine(RULES, "--mark-byte", "2")
        assert_works(world)
    finally:
        world.client.sh(f"ip {family} rule del pref 900")


@pytest.mark.parametrize("byte", ["0", "1", "2"])
def test_other_bytes(world: World, byte: str) -> None:
    engine = world.engine(RULES, "--mark-byte", byte)
    assert_works(world)
    assert world.client.tun_packets() == 3 * len(ONE_BY_ONE)
    assert engine.stop() == 0


def test_outbound_mark_inside_our_byte(world: World) -> None:
    status, error = refused(world, MARKED)
    assert status == 1
    assert_one_line(error, "0x51000000", "outbound 'marked'", "--mark-byte")
    world.engine(MARKED, "--mark-byte", "1")


def test_second_instance(world: World) -> None:
    world.engine(RULES)
    status, error = refused(world, RULES)
    assert status == 1
    assert_one_line(error, "tunowner0", "another tunowner", "Stop that one")
    assert_works(world)


def test_every_mistake_in_the_rules_is_listed(world: World) -> None:
    status, error = refused(world, TWO_MISTAKES)
    assert status == 1
    lines = [line for line in error.splitlines() if "refused.yaml:" in line]
    assert len(lines) == 2, error
    assert error.count("^") == 2, "each with its line"
    assert "refused.yaml:4:" in lines[0]
    assert "nowhere" in lines[0]
    assert "refused.yaml:5:" in lines[1]
    assert "99999" in lines[1]


def test_unreadable_rules(world: World) -> None:
    status, error = refused(world, RULES, "--rules", "/nonexistent/a.yaml")
    assert status == 1
    assert error.count("\n") == 1
    assert "/nonexistent/a.yaml" in error


@pytest.mark.parametrize("words", [("--mark-byte", "4"), ("--nonsense",), ("word",)])
def test_usage(world: World, words: tuple[str, ...]) -> None:
    status, error = refused(world, RULES, *words)
    assert status == 2
    assert words[0] in error


def test_without_ipv6(own_world: World) -> None:
    client = own_world.client
    client.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    client.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    before = client.snapshot()
    engine = own_world.engine(RULES)
    assert_works(own_world, [("tcp", SERVICE4), ("udp", SERVICE4)])
    assert engine.stop() == 0
    assert engine.stderr == ""
    wait_until(lambda: not before.diff(client.snapshot()), "the state before", 2.0)


def test_ipv6_is_off_for_new_devices(own_world: World) -> None:
    client = own_world.client
    client.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    before = client.snapshot()
    engine = own_world.engine(RULES)
    assert_works(own_world)
    assert engine.stop() == 0
    assert engine.stderr == ""
    wait_until(lambda: not before.diff(client.snapshot()), "the state before", 2.0)


def test_ipv6_is_off_for_new_devices_and_that_cannot_be_changed(own_world: World) -> None:
    own_world.client.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    read_only = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
    status, error = refused(own_world, RULES, prefix=hiding(read_only))
    assert status == 1
    assert_one_line(error, "IPv6", "net.ipv6.conf.default.disable_ipv6=0")
