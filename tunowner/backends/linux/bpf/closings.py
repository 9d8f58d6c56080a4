"""Sockets that close, told by the program at once: in close(2), before the port is free.

Not all of them: none of a socket outside the cgroup, and none when the buffer is full. So this is
read beside `deaths`, which misses none and comes 5 to 10 ms later.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from tunowner.backends.linux.bpf import libbpf

if TYPE_CHECKING:
    from tunowner.backends.linux.bpf.loader import OwnerMap


class Closings:
    """The ring buffer of an OwnerMap, of this network namespace's UDP sockets.

    For one thread. Raises OSError when the buffer cannot be mapped. Close it before the map.
    """

    def __init__(self, owner_map: OwnerMap, netns: int) -> None:
        self._library = owner_map.library
        self._cookies: list[int] = []
        self._sample = libbpf.sample_function(self._take)
        self._ring: int | None = libbpf.check(
            self._library.ring_buffer__new(owner_map.fd(b"closings"), self._sample, None, None)
        )
        self._told = owner_map.fd(b".bss")
        self._tell(netns)

    def _tell(self, netns: int) -> None:
        """Set `told` of the program."""
        key, told = ctypes.c_uint32(0), ctypes.c_uint64(netns)
        libbpf.check(
            self._library.bpf_map_update_elem(self._told, ctypes.byref(key), ctypes.byref(told), 0)
        )

    def _take(self, _: int | None, data: int, size: int) -> int:
        if size >= ctypes.sizeof(ctypes.c_uint64):
            self._cookies.append(ctypes.c_uint64.from_address(data).value)
        return 0

    def fileno(self) -> int:
        return int(self._library.ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[int]:
        """Return the cookies told since. Never blocks."""
        self._library.ring_buffer__consume(self._ring)
        cookies, self._cookies = self._cookies, []
        return cookies

    def close(self) -> None:
        """Safe to call twice."""
        ring, self._ring = self._ring, None
        if ring is not None:
            self._library.ring_buffer__free(ring)
