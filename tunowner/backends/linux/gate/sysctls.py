"""The one kernel setting that an outbound may need, put back on exit.

Strict reverse-path filtering drops an answer that arrives by the VPN, since without a mark the
route to its sender lies elsewhere. `src_valid_mark` makes that check use the packet's mark
(kernel Documentation/networking/ip-sysctl.rst), which the gate sets on such answers.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_CONF = Path("/proc/sys/net/ipv4/conf")
_STRICT = "1"


class Sysctls:
    """Remembers what it changed. `close` puts it back."""

    def __init__(self) -> None:
        self._before: dict[Path, str] = {}

    def trust_marked_replies(self, interface: str) -> None:
        """Set `src_valid_mark` on `interface` where rp_filter is strict and it is not set."""
        # The kernel takes the larger of the two: 0 off, 1 strict, 2 loose.
        rp_filter = max(_read(_CONF / name / "rp_filter") or "0" for name in ("all", interface))
        trusted = _read(_CONF / "all" / "src_valid_mark") == "1"
        if rp_filter == _STRICT and not trusted:
            self._set(_CONF / interface / "src_valid_mark", "1")

    def close(self) -> None:
        while self._before:
            path, value = self._before.popitem()
            with suppress(OSError):  # gone with its interface
                path.write_text(value)

    def _set(self, path: Path, value: str) -> None:
        before = _read(path)
        if before is None or before == value:
            return
        with suppress(OSError):  # read-only in some containers: then answers need a loose rp_filter
            path.write_text(value)
            self._before.setdefault(path, before)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
