"""What the path of a control group says about a process: its systemd unit and its container. Pure.

Groups are named by who makes them: systemd by systemd.unit(5) and its "Control Group APIs"
(cg_path_get_unit() in src/basic/cgroup-util.c), container engines by habit:

    docker      /docker/ID, docker-ID.scope             podman  libpod-ID.scope
    Kubernetes  kubepods/.../podUID/ID, cri-containerd-ID.scope, crio-ID.scope
    containerd  nerdctl-ID.scope, /NAMESPACE/ID         LXC     lxc/NAME, lxc.payload.NAME
    nspawn      machine-NAME.scope/payload, systemd-nspawn@NAME.service/payload

The processes that watch over a container (conmon, lxc.monitor) are not inside it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap|slice)")
_USER_MANAGER = re.compile(r"user@\d+\.service")
_ID = "(?P<id>[0-9a-f]{64})"
_ENGINE = {
    "docker": "docker",
    "libpod": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
}
_SCOPE = re.compile(rf"(?P<engine>docker|libpod|cri-containerd|nerdctl|crio)-{_ID}(?:\.scope)?")
_BARE = re.compile(_ID)
_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)")
_NSPAWN = re.compile(r"(?:machine-(?P<scope>.+)\.scope|systemd-nspawn@(?P<service>.+)\.service)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_DELETED = " (deleted)"


class Group(NamedTuple):
    """What a process's group says. Text is empty where it says nothing."""

    path: str = ""
    unit: str = ""
    user_unit: str = ""
    slice: str = ""
    container: str = ""


def parse_groups(text: str) -> Group:
    """Read /proc/PID/cgroup (cgroups(7)): `0::PATH` is version 2, the others are version 1.

    Where the version 2 path says nothing, as on machines that use both, systemd's own version 1
    hierarchy counts, then the others.
    """
    paths = dict(_hierarchies(text))
    second = paths.pop("", "")
    systemd = paths.pop("name=systemd", "")
    for path in (second, systemd, *paths.values()):
        group = describe_path(path)
        if group.unit or group.slice or group.container:
            return group._replace(path=second)
    return Group(second)


def describe_path(path: str) -> Group:
    parts = [part.removeprefix("_") for part in path.removesuffix(_DELETED).split("/") if part]
    unit, rest, slice_ = _first_unit(parts)
    user_unit = _first_unit(rest)[0] if _USER_MANAGER.fullmatch(unit) else ""
    return Group(path, unit, user_unit, slice_, _container(parts))


def _hierarchies(text: str) -> list[tuple[str, str]]:
    """Return (controllers, path) of each line. The path may hold colons."""
    fields = [line.split(":", 2) for line in text.splitlines()]
    return [(it[1], it[2]) for it in fields if len(it) == 3]


def _first_unit(parts: list[str]) -> tuple[str, list[str], str]:
    """Return the first unit below the slices, what is below it, and the deepest slice above it."""
    slice_ = ""
    for place, part in enumerate(parts):
        if not _UNIT.fullmatch(part):
            break
        if not part.endswith(".slice"):
            return part, parts[place + 1 :], slice_
        slice_ = part
    return "", [], slice_


def _container(parts: list[str]) -> str:
    """Return the innermost container: containers nest."""
    for place in range(len(parts) - 1, -1, -1):
        name = _container_named(parts[place], parts[:place], parts[place + 1 :])
        if name:
            return name
    return ""


def _container_named(part: str, above: list[str], below: list[str]) -> str:
    if found := _SCOPE.fullmatch(part):
        return f"{_ENGINE[found['engine']]}:{found['id']}"
    if found := _BARE.fullmatch(part):
        return f"{_engine_above(above)}:{found['id']}"
    if found := _LXC.fullmatch(part):
        return f"lxc:{found['name']}"
    if above[-1:] == ["lxc"]:
        return f"lxc:{part}"
    if below[:1] == ["payload"] and (found := _NSPAWN.fullmatch(part)):
        return f"nspawn:{unescape(found['scope'] or found['service'])}"
    return ""


def _engine_above(above: list[str]) -> str:
    if above[-1:] == ["docker"]:
        return "docker"
    if above[-1:] == ["libpod_parent"] or any(part.startswith("libpod") for part in above):
        return "podman"
    return "containerd"  # kubelet with cgroupfs, and containerd's own namespaces


def unescape(name: str) -> str:
    r"""Undo systemd-escape(1): `a\x2db` is `a-b`."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), name)
