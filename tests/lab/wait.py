"""Wait for a condition, never for an amount of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_PAUSE = 0.005


def wait_until(probe: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Return the first true answer of `probe`; fail, naming `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {timeout:g} s in vain for: {what}; last answer: {answer!r}"
            )
        time.sleep(_PAUSE)
    return answer
