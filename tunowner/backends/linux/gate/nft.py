"""Run nftables transactions: libnftables(3) through ctypes, the nft command where it is absent.

A table with `flags owner` belongs to the netlink socket that made it: nobody else may change it
(EPERM) and the kernel removes it when the socket closes, however the process ends (nft(8), since
Linux 5.12). Only the library can do that, since its socket stays open between transactions.
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Protocol

from tunowner.errors import BackendError, PrivilegeError

LIBRARY = "libnftables.so.1"


class Nft(Protocol):
    """Runs a transaction: all of a script takes effect, or nothing and BackendError is raised."""

    owns_tables: bool
    """Whether a table made here with `flags owner` lives and dies with this object."""

    def run(self, script: str) -> None: ...

    def close(self) -> None: ...


class NftLibrary:
    """libnftables with its buffered error text."""

    owns_tables = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context: int | None = library.nft_ctx_new(0)
        library.nft_ctx_buffer_error(self._context)

    def run(self, script: str) -> None:
        if self._library.nft_run_cmd_from_buffer(self._context, script.encode()):
            text = self._library.nft_ctx_get_error_buffer(self._context) or b""
            raise _failure(text.decode(errors="replace"))

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


class NftCommand:
    """`nft -f -` for each transaction."""

    owns_tables = False

    def run(self, script: str) -> None:
        try:
            done = subprocess.run(
                ["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise BackendError(
                f"neither {LIBRARY} nor the nft command is here",
                where="nftables",
                hint="Install it: apt install nftables",
            ) from error
        if done.returncode:
            raise _failure(done.stderr)

    def close(self) -> None: ...


def open_nft() -> Nft:
    """Return the library where there is one, else the command. Neither is run yet."""
    try:
        return NftLibrary(ctypes.CDLL(LIBRARY))
    except OSError:
        return NftCommand()


def _failure(text: str) -> BackendError | PrivilegeError:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    if "Operation not permitted" in text:
        return PrivilegeError(
            f"refused ({line})",
            where="nftables",
            hint="CAP_NET_ADMIN is missing: run with sudo",
        )
    return BackendError(f"refused ({line})", where="nftables")
