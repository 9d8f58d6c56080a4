"""Everything that speaks to an operating system, and the one place that asks which one it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tunowner.errors import BackendError

if TYPE_CHECKING:
    from tunowner.backends.base import Backend


def open_backend() -> Backend:
    """Return the backend of this operating system. Raises BackendError where there is none."""
    if sys.platform == "linux":
        from tunowner.backends.linux import LinuxBackend  # noqa: PLC0415 - the one platform switch

        return LinuxBackend()
    if sys.platform != "win32":
        from tunowner.backends.portable import PortableBackend  # noqa: PLC0415 - needs psutil

        return PortableBackend()
    raise BackendError(
        f"there is no backend for {sys.platform} yet", hint="tunowner runs on Linux for now"
    )
