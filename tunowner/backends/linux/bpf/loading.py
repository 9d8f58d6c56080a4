"""bpf(2) itself, and programs that the kernel loads for us. Without libbpf.

A file that .ci/build-bpf packed holds a program of type BPF_PROG_TYPE_SYSCALL and its data: it runs
once, in the kernel, finds there by its BTF what libbpf would look for in 5 MB of it, and loads the
programs meant. 1 ms instead of 10. Layouts are those of `union bpf_attr` in <linux/bpf.h>, and of
bpf_load_and_run() in libbpf's skel_internal.h, which this does step by step.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}
"""bpf(2) in <asm/unistd.h>."""
_MAP_CREATE, _MAP_UPDATE, _PROGRAM_LOAD, _PROGRAM_RUN = 0, 2, 5, 10
_LINK_CREATE, _ITERATOR_CREATE = 28, 33
"""`enum bpf_cmd`."""
_ARRAY, _PROGRAM_SYSCALL, _SLEEPABLE, _TRACE_ITERATOR = 2, 31, 1 << 4, 28
_HEAD = struct.Struct("<64sII")
"""The SHA-256 of the source in hexadecimal, the sizes of data and program."""
_INSTRUCTION = 8
_CONTEXT = struct.Struct("=IIIIQ")
"""`struct bpf_loader_ctx`: its size, and where to log to. The descriptors of programs follow."""


class Kernel:
    """bpf(2). Raises OSError, also where its number is not known for this machine."""

    def __init__(self) -> None:
        number = _NUMBERS.get(os.uname().machine)
        if number is None or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._number = number
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
        self._syscall.restype = ctypes.c_long

    def load(self, file: Path, count: int) -> list[int]:
        """Return the descriptors of the `count` programs in the file, in their order there."""
        packed = file.read_bytes()
        _, data_size, size = _HEAD.unpack_from(packed)
        data = ctypes.create_string_buffer(packed[_HEAD.size : _HEAD.size + data_size], data_size)
        program = ctypes.create_string_buffer(packed[_HEAD.size + data_size :], size)
        with ExitStack() as undo:
            blob = self._map_of(data, data_size)
            undo.callback(os.close, blob)
            loader = self._loader(program, size, blob)
            undo.callback(os.close, loader)
            return self._run(loader, count)

    def _map_of(self, data: ctypes.Array[ctypes.c_char], size: int) -> int:
        made = self._call(_MAP_CREATE, struct.pack("=IIII", _ARRAY, 4, size, 1))
        key = ctypes.c_uint32()
        try:
            place = ctypes.addressof(key), ctypes.addressof(data)
            self._call(_MAP_UPDATE, struct.pack("=I4xQQQ", made, *place, 0))
        except OSError:
            os.close(made)
            raise
        return made

    def _loader(self, program: ctypes.Array[ctypes.c_char], size: int, blob: int) -> int:
        terms, maps = ctypes.create_string_buffer(b"GPL"), ctypes.c_uint32(blob)
        addresses = [ctypes.addressof(each) for each in (program, terms)]
        head = struct.pack("=IIQQ", _PROGRAM_SYSCALL, size // _INSTRUCTION, *addresses)
        rest = struct.pack("=20xI72xQ", _SLEEPABLE, ctypes.addressof(maps))
        return self._call(_PROGRAM_LOAD, head + rest)

    def _run(self, loader: int, count: int) -> list[int]:
        size = _CONTEXT.size + 4 * count
        context = ctypes.create_string_buffer(_CONTEXT.pack(size, 0, 0, 0, 0), size)
        request = bytearray(80)
        struct.pack_into("=I", request, 0, loader)
        struct.pack_into("=II", request, 40, size, 0)
        struct.pack_into("=Q", request, 48, ctypes.addressof(context))
        self._call(_PROGRAM_RUN, request)
        (returned,) = struct.unpack_from("=i", request, 4)
        if returned < 0:
            raise OSError(-returned, os.strerror(-returned))
        return list(struct.unpack_from(f"={count}I", context, _CONTEXT.size))

    def iterator(self, program: int) -> int:
        """Return a link to an iterator program; it lives as long as that descriptor."""
        return self._call(_LINK_CREATE, struct.pack("=IIII16x", program, 0, _TRACE_ITERATOR, 0))

    def open_iterator(self, link: int) -> int:
        """Return a file that is read to the end to run the iterator once."""
        return self._call(_ITERATOR_CREATE, struct.pack("=II", link, 0))

    def _call(self, command: int, request: bytes | bytearray) -> int:
        """Call bpf(2); what it changes in the request is put back into a bytearray."""
        attributes = ctypes.create_string_buffer(bytes(request), len(request))
        result = self._syscall(self._number, command, ctypes.addressof(attributes), len(request))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        if isinstance(request, bytearray):
            request[:] = attributes.raw
        return int(result)
