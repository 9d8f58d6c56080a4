"""A flow that somebody describes: for `tests:` in rule files, and for `explain`.

    told = {"app": ["/usr/bin/git"], "parent": ["/usr/bin/bash"], "to": ["10.0.0.9:22"]}
    flow, owner, context = suppose(told)
    rules.explain(flow, owner, context)

The keys are those of `FIELDS`, the values lists of text of which most fields take one. What is not
told is unknown, except that no profile is chosen; `none` is told of a process that is in no package,
no unit or no container. A parent that is told is followed by its own
parents, and the last of them is the first process.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.model import PROTOCOL_NAMES, UDP, FlowKey, Grade, Owner, Process, ProcessDetails

from .detail_conditions import check_container, check_package, read_hash, unit_name
from .findings import BadValueError, quoted, suggestion
from .subject import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NONE = "none"
"""Told of a process that has no package, no unit, or is in no container: known, and nothing."""
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[^]%]+)\]|(?P<v4>[^]:[]+)):(?P<port>[0-9]{1,5})")
_PROTOCOLS = {name: number for number, name in PROTOCOL_NAMES.items()} | {"quic": UDP}


class Supposed(NamedTuple):
    """What `RuleSet.decide` and `RuleSet.explain` take."""

    flow: FlowKey
    owner: Owner
    context: Context


class _Remote(NamedTuple):
    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be told: what it is, and how its text is read."""

    meaning: str
    read: Callable[[Sequence[str]], object]


def _one(texts: Sequence[str]) -> str:
    if len(texts) != 1 or not texts[0]:
        raise BadValueError("E010", "expected one text that is not empty")
    return texts[0]


def _several(texts: Sequence[str]) -> tuple[str, ...]:
    if not texts:
        raise BadValueError("E010", "expected at least one text")
    return tuple(texts)


def _path(texts: Sequence[str]) -> str:
    return _absolute(_one(texts))


def _paths(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(_absolute, _several(texts)))


def _absolute(path: str) -> str:
    if not _ABSOLUTE.match(path):
        hint = "write the whole path of the program, as in /usr/bin/curl"
        raise BadValueError("E110", f"path {quoted(path)} is not absolute", hint)
    return path


def _remote(texts: Sequence[str]) -> _Remote:
    text = _one(texts)
    hint = "write 192.0.2.7:443 or [2001:db8::7]:443; a name goes into host"
    bad = BadValueError("E120", f"{quoted(text)} is no address with a port", hint)
    found = _ENDPOINT.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise bad
    try:
        address = ip_address(found["v6"] or found["v4"])
    except ValueError:
        raise bad from None
    if address.version != (6 if found["v6"] else 4):
        raise bad
    return _Remote(address.packed, int(found["port"]))


def _protocol(texts: Sequence[str]) -> int:
    name = _one(texts)
    if name in _PROTOCOLS:
        return _PROTOCOLS[name]
    hint = suggestion(name, _PROTOCOLS, "protocols")
    raise BadValueError("E106", f"{quoted(name)} is no protocol", hint)


def _pid(texts: Sequence[str]) -> int:
    text = _one(texts)
    if not text.isdecimal() or not 0 < int(text[:11]) < 1 << 32:
        raise BadValueError("E108", f"{quoted(text)} is no process number", "write 1 or more")
    return int(text)


def _grade(texts: Sequence[str]) -> Grade:
    name = _one(texts)
    if name == "unknown":
        return Grade.ABSENT
    try:
        return Grade(name)
    except ValueError:
        hint = suggestion(name, ("unknown", *Grade), "values")
        raise BadValueError("E109", f"{quoted(name)} is no owner grade", hint) from None


def _command_line(texts: Sequence[str]) -> tuple[str, ...]:
    """Take the words, or one text as a shell would split it."""
    if len(texts) != 1:
        return _several(texts)
    try:
        return tuple(shlex.split(texts[0]))
    except ValueError as error:
        raise BadValueError("E121", f"not a command line: {error}", "close the quotes") from None


def _package(texts: Sequence[str]) -> str:
    if text := _one_unless_none(texts):
        check_package(text)
    return text


def _container(texts: Sequence[str]) -> str:
    if text := _one_unless_none(texts):
        check_container(text)
    return text


def _service(texts: Sequence[str]) -> str:
    text = _one_unless_none(texts)
    return unit_name(text) if text else text


def _one_unless_none(texts: Sequence[str]) -> str:
    """Return one text, empty for what the process is told not to have."""
    text = _one(texts)
    return "" if text == NONE else text


def _hash(texts: Sequence[str]) -> str:
    return read_hash(_one(texts))


FIELDS: dict[str, Field] = {
    "app": Field("path of the program", _path),
    "to": Field("remote address and port", _remote),
    "protocol": Field("tcp, udp or quic; tcp unless told", _protocol),
    "host": Field("names of the remote address", _several),
    "interface": Field("the interface that the flow would leave by", _one),
    "user": Field("name or uid of the user", _one),
    "pid": Field("process number", _pid),
    "cmdline": Field("the command line: words, or one text with quotes", _command_line),
    "directory": Field("working directory of the process", _path),
    "parent": Field("path of the parent, of its parent, and so on", _paths),
    "package": Field("package, as in deb:curl, or none", _package),
    "service": Field("systemd unit, as in ssh.service, or none", _service),
    "cgroup": Field("path of the control group", _one),
    "container": Field("container, as in docker:0123abcd, or none", _container),
    "sha256": Field("hash of the program", _hash),
    "owner": Field("how sure the owner is: a grade, or unknown", _grade),
    "profile": Field("the profile that is chosen", _one),
}


def suppose(told: Mapping[str, Sequence[str]]) -> Supposed:
    """Return the flow, its owner and the context; `BadValueError` for the first wrong value."""
    for key in told:
        if key not in FIELDS:
            hint = suggestion(key, FIELDS, "keys")
            raise BadValueError("E012", f"unknown key {quoted(key)} in a flow", hint)
    if "to" not in told:
        raise BadValueError("E011", "key 'to' is missing in a flow", "write to: 192.0.2.7:443")
    return assemble({key: FIELDS[key].read(texts) for key, texts in told.items()})


class _Read(dict[str, object]):
    """Values by the name of their field; each field reads but one type."""

    def text(self, key: str) -> str | None:
        value = self.get(key)
        return value if isinstance(value, str) else None

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.get(key, ())
        return value if isinstance(value, tuple) else ()


_OF_A_PROCESS = ("app", "pid", "cmdline", "directory", "parent", "package", "service", "cgroup")
_ALSO_OF_A_PROCESS = ("container", "sha256")


def assemble(values: Mapping[str, object]) -> Supposed:
    """Return the flow of values that `FIELDS` have read; `to` is among them."""
    read = _Read(values)
    remote = read["to"]
    assert isinstance(remote, _Remote)
    protocol = read.get("protocol", _PROTOCOLS["tcp"])
    assert isinstance(protocol, int)
    flow = FlowKey(protocol, bytes(len(remote.address)), 0, remote.address, remote.port)
    owner = _owner(read)
    return Supposed(flow, owner, _context(read, owner))


def _owner(read: _Read) -> Owner:
    user = read.text("user")
    uid = int(user) if user is not None and user.isdecimal() else None
    name = None if uid is not None else user
    grade = read.get("owner")
    if any(key in read for key in (*_OF_A_PROCESS, *_ALSO_OF_A_PROCESS)):
        pid = read.get("pid", 0)
        assert isinstance(pid, int)
        process = Process(pid, 0, read.text("app"), uid, name)
        return Owner(Grade.EXACT if grade is None else Grade(str(grade)), (process,), uid, name)
    unnamed = Grade.ABSENT if user is None else Grade.UID_ONLY
    return Owner(unnamed if grade is None else Grade(str(grade)), (), uid, name)


def _context(read: _Read, owner: Owner) -> Context:
    details = _details(read, owner.candidates[0]) if owner.candidates else None
    hosts = tuple(name.lower().rstrip(".") for name in read.texts("host"))
    return Context(
        details=lambda process: details if details and process == details.process else None,
        sha256=lambda _: read.text("sha256"),
        hosts=lambda _: hosts,
        interface=lambda _: read.text("interface"),
        profile=read.text("profile") or "",
    )


def _details(read: _Read, process: Process) -> ProcessDetails:
    parents = tuple(Process(0, -age, path) for age, path in enumerate(read.texts("parent"), 1))
    return ProcessDetails(
        process,
        command_line=read.texts("cmdline") or None,
        parents=parents,
        parents_whole=bool(parents),
        cgroup=read.text("cgroup"),
        unit=read.text("service"),
        user_unit="" if "service" in read else None,
        container=read.text("container"),
        package=read.text("package"),
        directory=read.text("directory"),
    )
