"""The rule files that ship: each loads, and means what its first lines say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.rules.flows import ABSENT, CURL, HIDDEN, app, flow, owned, udp
from tunowner.core.model import FlowKey, Grade, Owner
from tunowner.core.rules import load

FOLDER = Path(__file__).parents[3] / "rules"
KERNEL = Owner(Grade.KERNEL)
OPENVPN, WIREGUARD = app("/usr/sbin/openvpn", "root"), app("/usr/bin/wireguard-go", "root")
TAILSCALE = app("/usr/sbin/tailscaled", "root")
FIREFOX, STEAM = app("/usr/lib/firefox/firefox"), app("/usr/bin/steam")
VENDOR, TORRENT = app("/opt/vendor/bin/updater"), app("/usr/bin/transmission-gtk")
WEB, LAN, LAN6, LOOPBACK = flow(), flow("192.168.1.9"), flow("fe80::1"), flow("127.0.0.1")
WEB6, DNS, MULTICAST = flow("2001:db8::7"), udp(port=53), udp("224.0.0.251", 5353)
TUNNEL = udp("198.51.100.1", 51820)

MEANING = [
    ("default", WEB, owned(CURL), "direct"),
    ("default", WEB, ABSENT, "direct"),
    ("block-app", WEB, VENDOR, "block"),
    ("block-app", WEB6, VENDOR, "block"),
    ("block-app", LAN, VENDOR, "direct"),
    ("block-app", LAN6, VENDOR, "direct"),
    ("block-app", LOOPBACK, VENDOR, "direct"),
    ("block-app", WEB, owned(CURL), "direct"),
    ("block-app", WEB, ABSENT, "direct"),
    ("vpn-some-apps", WEB, FIREFOX, "vpn"),
    ("vpn-some-apps", WEB6, FIREFOX, "vpn"),
    ("vpn-some-apps", DNS, TORRENT, "vpn"),
    ("vpn-some-apps", LAN, FIREFOX, "direct"),
    ("vpn-some-apps", MULTICAST, FIREFOX, "direct"),
    ("vpn-some-apps", WEB, owned(CURL), "direct"),
    ("vpn-some-apps", WEB, ABSENT, "direct"),
    ("vpn-all-but-some", WEB, owned(CURL), "vpn"),
    ("vpn-all-but-some", WEB6, owned(CURL), "vpn"),
    ("vpn-all-but-some", WEB, ABSENT, "vpn"),
    ("vpn-all-but-some", WEB, owned(HIDDEN), "vpn"),
    ("vpn-all-but-some", LAN, owned(CURL), "direct"),
    ("vpn-all-but-some", LAN6, ABSENT, "direct"),
    ("vpn-all-but-some", MULTICAST, ABSENT, "direct"),
    ("vpn-all-but-some", udp("255.255.255.255", 67), ABSENT, "direct"),
    ("vpn-all-but-some", TUNNEL, KERNEL, "direct"),
    ("vpn-all-but-some", WEB, KERNEL, "vpn"),
    ("vpn-all-but-some", TUNNEL, WIREGUARD, "direct"),
    ("vpn-all-but-some", TUNNEL, TAILSCALE, "direct"),
    ("vpn-all-but-some", flow(port=1194), OPENVPN, "direct"),
    ("vpn-all-but-some", WEB, STEAM, "direct"),
    ("vpn-browsers", WEB, FIREFOX, "vpn"),
    ("vpn-browsers", WEB6, FIREFOX, "vpn"),
    ("vpn-browsers", LAN6, FIREFOX, "direct"),
    ("vpn-browsers", WEB, owned(CURL), "direct"),
    ("vpn-browsers", WEB, ABSENT, "direct"),
    ("block-telemetry", WEB6, app("/usr/bin/whoopsie"), "block"),
    ("block-telemetry", WEB, owned(CURL), "direct"),
    ("block-telemetry", WEB, ABSENT, "direct"),
    ("lan-direct", LAN, ABSENT, "direct"),
    ("lan-direct", WEB, ABSENT, "direct"),
    ("developer-tools", flow("203.0.113.5", 8443), FIREFOX, "company"),
    ("developer-tools", flow("198.51.100.5", 8443), FIREFOX, "direct"),
    ("scripts-and-children", WEB, FIREFOX, "direct"),
    ("kill-switch", WEB, TORRENT, "vpn"),
    ("kill-switch", WEB6, TORRENT, "vpn"),
    ("kill-switch", DNS, TORRENT, "vpn"),
    ("kill-switch", LAN, TORRENT, "vpn"),
    ("kill-switch", WEB, owned(CURL), "direct"),
    ("kill-switch", WEB, ABSENT, "block"),
    ("kill-switch", WEB, owned(HIDDEN), "block"),
    ("kill-switch", TUNNEL, KERNEL, "direct"),
    ("kill-switch", TUNNEL, ABSENT, "block"),
]


@pytest.mark.parametrize(("name", "key", "owner", "action"), MEANING)
def test_a_shipped_file_means_what_it_says(
    name: str, key: FlowKey, owner: Owner, action: str
) -> None:
    file = FOLDER / f"{name}.yaml"
    rules = load([(file.name, file.read_text(encoding="utf-8"))])
    assert rules.decide(key, owner).action == action
    assert rules.warnings == ()


def test_each_shipped_file_is_tried() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {name for name, *_ in MEANING}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda it: it.stem)
def test_each_shipped_file_teaches_and_tests_itself(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    rules = load([(file.name, text)])
    assert len(rules.cases) >= max(1, len(rules.rules))
    expected = {case.expected for case in rules.cases}
    decisive = {rule.name for rule in rules.rules if rule.decides}
    assert decisive <= expected, "each rule is shown to match"
    assert text.startswith("# ")
    assert text.count("# ") >= 4
    assert all(len(line) <= 110 for line in text.splitlines())


def test_the_readme_names_each_file() -> None:
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in FOLDER.glob("*.yaml") if f"rules/{file.name}" not in readme] == []


def test_the_local_network_may_stand_before_other_files() -> None:
    first, other = (FOLDER / f"{name}.yaml" for name in ("lan-direct", "block-telemetry"))
    rules = load([(it.name, it.read_text(encoding="utf-8")) for it in (first, other)])
    reporter = app("/usr/bin/whoopsie")
    assert rules.decide(LAN, reporter).action == "direct"
    assert rules.decide(WEB, reporter).action == "block"


def test_the_default_touches_nothing() -> None:
    assert load([("default.yaml", (FOLDER / "default.yaml").read_text())]).only_direct


def test_what_the_default_teaches_loads() -> None:
    """Its commented examples, with the comment signs taken away."""
    lines = (FOLDER / "default.yaml").read_text().splitlines()
    sections = (
        "# outbounds:",
        "#   vpn",
        "#   other",
        "#   mark",
        "# sets:",
        "#   lan",
        "#   browsers",
    )
    rules = lines[lines.index("# rules:") :]
    taught = [line[2:] for line in lines if line.startswith(sections)] + [
        line[2:] for line in rules
    ]
    loaded = load([("taught.yaml", "\n".join(["version: 1", *taught]))])
    assert len(loaded.rules) == 2
    assert len(loaded.outbounds) == 3
