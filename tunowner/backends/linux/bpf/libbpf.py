"""libbpf.so.1 through ctypes: every function that is called, declared in one place.

Functions that return a pointer give NULL and set errno (libbpf 1.0: LIBBPF_STRICT_ALL for good);
those that return an int give -errno.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "libbpf.so.1"


class OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of <bpf/libbpf.h>; `size` tells libbpf which fields there are."""

    _fields_ = (
        ("size", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("unused", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


class TcHook(ctypes.Structure):
    """struct bpf_tc_hook of <bpf/libbpf.h>."""

    _fields_ = (
        ("size", c_size_t),
        ("interface", c_int),
        ("attach_point", c_uint32),
        ("parent", c_uint32),
        ("unused", c_uint32),
    )


class TcOptions(ctypes.Structure):
    """struct bpf_tc_opts of <bpf/libbpf.h>."""

    _fields_ = (
        ("size", c_size_t),
        ("program_fd", c_int),
        ("flags", c_uint32),
        ("program_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
        ("unused", c_uint32),
    )


TC_INGRESS, TC_EGRESS = 1, 2

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "bpf_object__open_file": (c_void_p, [c_char_p, POINTER(OpenOptions)]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_tc_hook_create": (c_int, [POINTER(TcHook)]),
    "bpf_tc_hook_destroy": (c_int, [POINTER(TcHook)]),
    "bpf_tc_attach": (c_int, [POINTER(TcHook), POINTER(TcOptions)]),
    "bpf_tc_detach": (c_int, [POINTER(TcHook), POINTER(TcOptions)]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_void_p, c_size_t]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "ring_buffer__new": (c_void_p, [c_int, c_void_p, c_void_p, c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "libbpf_set_print": (c_void_p, [c_void_p]),
}


def open_library(file: str = NAME) -> ctypes.CDLL:
    """Return libbpf with its functions declared. Raises BackendError where it is not installed."""
    try:
        library = ctypes.CDLL(file, use_errno=True)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BackendError(
            f"{file} cannot be used ({error})", where="eBPF", hint="apt install libbpf1"
        ) from error
    return library


def sample_function(take: Callable[[int | None, int, int], int]) -> Any:
    """Return a ring_buffer_sample_fn: it gets a context, the address of a sample and its size.

    It must be kept as long as the ring buffer is.
    """
    return ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)(take)


@contextmanager
def silence(library: ctypes.CDLL) -> Iterator[None]:
    """Keep libbpf from printing to stderr: what went wrong is told by an exception."""
    before = library.libbpf_set_print(None)
    try:
        yield
    finally:
        library.libbpf_set_print(before)


def check(result: int | None) -> int:
    """Return a libbpf result that is no failure; raise OSError for one that is."""
    number = ctypes.get_errno() if result is None else -result
    if result is None or result < 0:
        raise OSError(number, os.strerror(number))
    return result
