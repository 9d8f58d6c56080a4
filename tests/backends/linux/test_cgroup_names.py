from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunowner.backends.linux.cgroup_names import Group, describe_path, parse_groups, unescape

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
USER = "/user.slice/user-1000.slice/user@1000.service"
POD = "pod2b7c4ffa-1f2d-4a8b-9a4e-0d4b6b1f3c11"


@pytest.mark.parametrize(
    ("path", "unit", "user_unit", "slice_"),
    [
        ("/", "", "", ""),
        ("/init.scope", "init.scope", "", ""),
        ("/system.slice", "", "", "system.slice"),
        ("/system.slice/ssh.service", "ssh.service", "", "system.slice"),
        ("/system.slice/ssh.service/sub", "ssh.service", "", "system.slice"),
        ("/system.slice/a.service (deleted)", "a.service", "", "system.slice"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            *("getty@tty1.service", "", "system-getty.slice"),
        ),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "", "user-1000.slice"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-812.scope",
            *("user@1000.service", "app-firefox-812.scope", "user-1000.slice"),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            *("user@1000.service", "init.scope", "user-1000.slice"),
        ),
        ("/system.slice/_cgroup.service", "cgroup.service", "", "system.slice"),
        ("/custom/ssh.service", "", "", ""),
    ],
)
def test_units(path: str, unit: str, user_unit: str, slice_: str) -> None:
    group = describe_path(path)
    assert (group.unit, group.user_unit, group.slice) == (unit, user_unit, slice_)


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/docker/{ID}", f"docker:{ID}"),
        (f"/system.slice/docker-{ID}.scope", f"docker:{ID}"),
        (f"/system.slice/docker-{ID}.scope/init", f"docker:{ID}"),
        (f"/docker/{ID}/kubelet/kubepods/besteffort/{POD}/{OTHER}", f"containerd:{OTHER}"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"podman:{ID}"),
        (f"{USER}/user.slice/libpod-{ID}.scope", f"podman:{ID}"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", ""),
        (f"/libpod_parent/{ID}", f"podman:{ID}"),
        (f"/kubepods/burstable/{POD}/{ID}", f"containerd:{ID}"),
        (
            f"/kubepods.slice/kubepods-{POD}.slice/cri-containerd-{ID}.scope",
            f"containerd:{ID}",
        ),
        (f"/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope", f"crio:{ID}"),
        (f"/system.slice/nerdctl-{ID}.scope", f"containerd:{ID}"),
        (f"/default/{ID}", f"containerd:{ID}"),
        ("/lxc/web", "lxc:web"),
        ("/lxc.payload.web/system.slice/ssh.service", "lxc:web"),
        ("/lxc.monitor.web", ""),
        ("/machine.slice/machine-my\\x2dbox.scope/payload/x", "nspawn:my-box"),
        ("/machine.slice/systemd-nspawn@box.service/payload", "nspawn:box"),
        ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", ""),
        ("/system.slice/docker.service", ""),
        (f"/x/{ID[:-1]}", ""),
        (f"/x/{ID[:-1]}G", ""),
    ],
)
def test_containers(path: str, container: str) -> None:
    assert describe_path(path).container == container


def test_version_2_goes_first_and_its_path_is_told() -> None:
    text = "9:name=systemd:/system.slice/old.service\n0::/system.slice/new.service\n"
    group = parse_groups(text)
    assert (group.path, group.unit) == ("/system.slice/new.service", "new.service")


def test_version_1_where_version_2_says_nothing() -> None:
    text = f"12:cpu:/docker/{ID}\n9:name=systemd:/system.slice/ssh.service\n0::/\n"
    assert parse_groups(text) == Group("/", "ssh.service", "", "system.slice", "")
    assert parse_groups(f"12:cpu:/docker/{ID}\n0::/\n").container == f"docker:{ID}"


def test_nothing() -> None:
    assert parse_groups("") == parse_groups("nonsense\n1:2") == Group()


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_groups(text)
    describe_path(text)
    unescape(text)
