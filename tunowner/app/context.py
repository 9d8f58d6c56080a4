"""What rules may ask about a flow besides its owner, answered by this system."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunowner.core.rules import Context

if TYPE_CHECKING:
    from collections.abc import Collection

    from tunowner.app.names import HostNames
    from tunowner.backends.base import Backend
    from tunowner.core.model import Process


def open_context(backend: Backend, profile: str = "", names: HostNames | None = None) -> Context:
    """Return what tells the rules about processes, routes and the time. Nothing is to be closed.

    Nobody is asked before a rule needs the answer. Without `names` no host is known.
    """
    inspector = backend.open_inspector()

    def sha256(process: Process) -> str | None:
        details = inspector.details(process, sha256=True)
        return None if details is None else details.sha256

    return Context(
        details=inspector.details,
        sha256=sha256,
        hosts=names.of if names else _no_names,
        interface=backend.interface_of,
        profile=profile,
        now=time.time,
    )


def _no_names(_: bytes) -> Collection[str]:
    return ()
