"""The interface that a flow would leave by, beside what `ip route get` says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from ipaddress import ip_address

import pytest

from tunowner.backends.linux.routes import interface_of
from tunowner.core.model import TCP, FlowKey

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)


def flow(to: str, source: str | None = None) -> FlowKey:
    remote = ip_address(to).packed
    local = ip_address(source).packed if source else bytes(len(remote))
    return FlowKey(TCP, local, 40000 if source else 0, remote, 443)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(address: str) -> None:
    assert interface_of(flow(address)) == "lo"
    assert interface_of(flow(address, "::1" if ":" in address else "127.0.0.1")) == "lo"


@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
@pytest.mark.parametrize("address", ["203.0.113.5", "8.8.8.8", "10.1.2.3", "2001:db8::7"])
def test_as_ip_says(address: str) -> None:
    command = ["ip", "-j", "route", "get", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = json.loads(done.stdout)[0]["dev"] if done.returncode == 0 else None
    assert interface_of(flow(address)) == expected


def test_an_address_that_is_not_ours_has_no_route() -> None:
    assert interface_of(flow("127.0.0.1", "192.0.2.77")) is None
