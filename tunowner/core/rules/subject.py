"""What a rule is asked about: one flow, its owner, and the facts that somebody else can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scripts import NO_SCRIPT, is_interpreter, script_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tunowner.core.model import FlowKey, Owner, Process, ProcessDetails

    from .scripts import Script


def _nothing(_: object) -> None:
    return None


def _no_names(_: bytes) -> Collection[str]:
    return ()


def _beginning() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """Who tells what neither a flow nor its owner holds; whatever is left out is unknown.

    Each is asked only when a rule that may still match needs the answer, and once for a flow.
    None of them may raise.
    """

    details: Callable[[Process], ProcessDetails | None] = _nothing
    """Command line, parents, package, ...; None when the process has gone."""
    sha256: Callable[[Process], str | None] = _nothing
    """The hash of the program that runs, 64 hexadecimal digits."""
    hosts: Callable[[bytes], Collection[str]] = _no_names
    """Names that a packed address was found under, in lower case; none when not known."""
    interface: Callable[[FlowKey], str | None] = _nothing
    """The interface that the flow would leave by, were there no rules."""
    profile: str = ""
    """The profile that was chosen; empty for none, which is known."""
    now: Callable[[], float] = _beginning
    """Seconds since the epoch, for rules that end."""


NOTHING_MORE = Context()


class Subject:
    """One flow for one decision. Remembers what it was told, so that nobody is asked twice."""

    __slots__ = (
        "_details",
        "_hashes",
        "_hosts",
        "_interface",
        "_scripts",
        "context",
        "flow",
        "owner",
    )

    def __init__(self, flow: FlowKey, owner: Owner, context: Context) -> None:
        self.flow = flow
        self.owner = owner
        self.context = context
        self._details: dict[Process, ProcessDetails | None] | None = None
        self._hashes: dict[Process, str | None] | None = None
        self._scripts: dict[Process, Script | None] | None = None
        self._hosts: Collection[str] | None = None
        self._interface: tuple[str | None] | None = None

    def details(self, process: Process) -> ProcessDetails | None:
        """Return what more is known of a process."""
        if self._details is None:
            self._details = {}
        if process not in self._details:
            self._details[process] = self.context.details(process)
        return self._details[process]

    def sha256(self, process: Process) -> str | None:
        """Return the hash of a process's program."""
        if self._hashes is None:
            self._hashes = {}
        if process not in self._hashes:
            self._hashes[process] = self.context.sha256(process)
        return self._hashes[process]

    def script(self, process: Process) -> Script | None:
        """Return the script that a process runs, None if unknown. Only interpreters are asked."""
        if self._scripts is None:
            self._scripts = {}
        if process not in self._scripts:
            self._scripts[process] = self._find_script(process)
        return self._scripts[process]

    def _find_script(self, process: Process) -> Script | None:
        if process.path is None:
            return None
        if not is_interpreter(process.path):
            return NO_SCRIPT
        details = self.details(process)
        if details is None or details.command_line is None:
            return None
        return script_of(process.path, details.command_line, details.directory)

    def hosts(self) -> Collection[str]:
        """Return the names of the remote address; none when not known."""
        if self._hosts is None:
            self._hosts = self.context.hosts(self.flow.remote)
        return self._hosts

    def interface(self) -> str | None:
        """Return the interface that the flow would leave by."""
        if self._interface is None:
            self._interface = (self.context.interface(self.flow),)
        return self._interface[0]
