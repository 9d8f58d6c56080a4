"""Paths that will not stay: what an update, a restart or a rebuild gives another name."""

from __future__ import annotations

import re

from .findings import BadValueError, quoted
from .scripts import normal

_KNOWN = (
    (re.compile(r"(?:/var/lib/snapd)?/snap/(?P<id>[^/]+)/x?[0-9]+/.*"), "snap:{id}"),
    (re.compile(r".*/flatpak/app/(?P<id>[^/]+)/.*"), "flatpak:{id}"),
    (re.compile(r"(?:/[^/]+)*/\.mount_[^/]+/.*"), "appimage:/where/it/is/*.AppImage"),
)
_STORE = re.compile(r"/nix/store/[0-9a-z]{32}-(?P<rest>.*)")
_VERSION = re.compile(r"/(?P<name>[^/*?\[]*?)[-_.]?v?[0-9]+(?:\.[0-9]+)+[^/*?\[]*(?=/)")
_DELETED = " (deleted)"


def doubt_about(path: str) -> BadValueError | None:
    """Return a warning about a path or a pattern for paths that will soon fit nothing."""
    if path.endswith(_DELETED):
        hint = "write the path without it; programs replaced while they run match as before"
        return BadValueError("W106", f"{quoted(path)} never matches", hint)
    if not path.startswith("/"):
        return None
    if (plain := normal(path)) != (path.removesuffix("/") or "/"):
        folder = "/" if path.endswith("/") else ""
        return BadValueError(
            "W106", f"{quoted(path)} never matches", f"write {quoted(plain + folder)}"
        )
    for pattern, package in _KNOWN:
        found = pattern.fullmatch(path)
        if found:
            names = {key: value for key, value in found.groupdict().items() if value}
            return _moves(path, f"write package: {package.format(**names)}")
    if found := _STORE.fullmatch(path):
        rest = _VERSION.sub(_starred, f"/{found['rest']}")
        return _moves(path, f"write {quoted('/nix/store/*-' + rest[1:])}")
    stays = _VERSION.sub(_starred, path)
    return _moves(path, f"write {quoted(stays)}") if stays != path else None


def _starred(found: re.Match[str]) -> str:
    name = found["name"]
    return f"/{name}*" if name else "/*"


def _moves(path: str, hint: str) -> BadValueError:
    return BadValueError("W103", f"{quoted(path)} will move with the next update", hint)
