from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunowner.backends.linux import packages
from tunowner.backends.linux.cgroup_names import describe_path
from tunowner.backends.linux.packages import SCANS, Dpkg

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

APP = "/user.slice/user-1000.slice/user@1000.service/app.slice/"


@pytest.mark.parametrize(
    ("path", "package"),
    [
        (f"{APP}app-flatpak-org.mozilla.firefox-2312.scope", "flatpak:org.mozilla.firefox"),
        (f"{APP}app-flatpak-org.my\\x2dapp.App-7.scope", "flatpak:org.my-app.App"),
        (f"{APP}app-flatpak-org.x.Y.scope", "flatpak:org.x.Y"),
        (f"{APP}snap.firefox.firefox-2f3c11aa.scope", "snap:firefox"),
        (f"{APP}snap.my-app_two.run.2f3c11aa.scope", "snap:my-app_two"),
        ("/system.slice/snap.lxd.daemon.service", "snap:lxd"),
        ("/system.slice/snapd.service", ""),
        (f"{APP}app-firefox-812.scope", ""),
        ("/", ""),
    ],
)
def test_units_of_packages(path: str, package: str) -> None:
    assert packages.package_of_group(describe_path(path)) == package


def test_snap_paths() -> None:
    assert packages.snap_of_path("/snap/firefox/5917/usr/lib/firefox/firefox") == "snap:firefox"
    assert packages.snap_of_path("/var/lib/snapd/snap/core22/1/bin/x") == "snap:core22"
    for path in ("/snap/bin/firefox", "/home/ana/snap/firefox/5917/x", "/usr/bin/snap"):
        assert packages.snap_of_path(path) == ""


def test_flatpak_info() -> None:
    assert (
        packages.flatpak_of_info(b"[Application]\nname=org.x.Y\nruntime=z\n") == "flatpak:org.x.Y"
    )
    assert packages.flatpak_of_info(b"[Runtime]\nruntime=runtime/org.R\n").startswith("flatpak:")
    assert packages.flatpak_of_info(b"\xff\xfe") == ""


def test_appimages() -> None:
    assert packages.is_in_appimage("/tmp/.mount_FooAbc123/usr/bin/foo")
    assert not packages.is_in_appimage("/usr/bin/foo")
    assert not packages.is_in_appimage("/tmp/.mount_Foo")
    variables = b"A=1\0APPIMAGE=/home/ana/Foo \xff.AppImage\0B=2"
    assert packages.appimage_of_environment(variables) == "appimage:/home/ana/Foo \udcff.AppImage"
    assert packages.appimage_of_environment(b"APPIMAGE=relative\0XAPPIMAGE=/x") == ""


@given(st.text(), st.binary())
def test_any_path_and_any_bytes(path: str, data: bytes) -> None:
    packages.snap_of_path(path)
    packages.is_in_appimage(path)
    packages.flatpak_of_info(data)
    packages.appimage_of_environment(data)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    info = tmp_path / "info"
    info.mkdir()
    lists = {
        "curl.list": "/.\n/usr\n/usr/bin\n/usr/bin/curl\n",
        "libc6:amd64.list": "/.\n/usr/lib/x86_64-linux-gnu/libc.so.6\n",
        "vim-common.list": "/usr/bin/xxd\n/usr/bin/curl-config\n",
        "dash.list": "/usr/bin/sh\n",
        "bash.list": "/usr/bin/sh\n/usr/bin/bash",
        "old.list": "/bin/ls\n",
        "curl.md5sums": "/usr/bin/nonsense\n",
    }
    for name, text in lists.items():
        (info / name).write_text(text)
    return tmp_path


CASES = [
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/xxd", "vim-common"),
    ("/usr/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
    ("/usr/bin/bash", "bash"),
    ("/usr/bin/cur", ""),
    ("/usr/bin/nonsense", ""),
    ("/opt/\udcff", ""),
]


@pytest.mark.parametrize("rounds", [1, 2])
def test_paths_with_and_without_the_index(database: Path, rounds: int) -> None:
    dpkg = Dpkg(database)
    for _ in range(rounds):
        assert [dpkg.owner(path) for path, _ in CASES] == [package for _, package in CASES]
    assert len(CASES) > SCANS
    assert dpkg._index is not None, "so many paths paid for one"


@pytest.mark.parametrize("path", [path for path, _ in CASES])
def test_one_path_makes_no_index(database: Path, path: str) -> None:
    dpkg = Dpkg(database)
    assert dpkg.owner(path) == dict(CASES)[path]
    assert dpkg._index is None


def test_packages_that_come_and_go_are_noticed(database: Path) -> None:
    dpkg = Dpkg(database)
    assert dpkg.owner("/opt/new") == ""
    (database / "info" / "new.list").write_text("/opt/new\n")
    os.utime(database / "info", ns=(1, 1))
    assert dpkg.owner("/opt/new") == "new"


def test_diversions(database: Path) -> None:
    lines = [
        "/usr/bin/sh",
        "/usr/bin/sh.distrib",
        "dash",
        "/usr/bin/curl",
        "/usr/bin/curl.old",
        ":",
    ]
    (database / "diversions").write_text("\n".join(lines) + "\n")
    dpkg = Dpkg(database)
    assert dpkg.owner("/usr/bin/sh") == "dash"
    assert dpkg.owner("/usr/bin/sh.distrib") == "bash"
    assert dpkg.owner("/usr/bin/curl") == "", "the administrator's own"
    assert dpkg.owner("/usr/bin/curl.old") == "curl"


@pytest.mark.skipif(not Path("/bin").is_symlink(), reason="/bin is no link here")
def test_a_list_from_before_the_usr_merge(database: Path) -> None:
    assert Dpkg(database).owner("/usr/bin/ls") == "old"


def test_no_database(tmp_path: Path) -> None:
    assert Dpkg(tmp_path).owner("/usr/bin/curl") is None


@pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
def test_the_database_of_this_machine() -> None:
    path = os.path.realpath(shutil.which("dpkg") or "")
    assert Dpkg().owner(path) == "dpkg"
