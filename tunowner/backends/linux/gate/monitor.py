"""Notice when links, addresses or policy rules change, so that routes of outbounds are set again.

Two reasons, both seen in the field: an interface that goes down takes its routes with it, and
systemd-networkd removes policy rules it did not make (networkd.conf(5), ManageForeignRoutingPolicyRules).
"""

from __future__ import annotations

import socket

from tunowner.backends.linux.netlink import AF_NETLINK, SOL_NETLINK

_NETLINK_ROUTE = 0
_NETLINK_ADD_MEMBERSHIP = 1
_GROUPS = (1, 5, 9, 8, 19)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV6_IFADDR, IPV4_RULE, IPV6_RULE in <linux/rtnetlink.h>."""


class Monitor:
    """A netlink socket that becomes readable when something changed."""

    def __init__(self) -> None:
        self._socket = socket.socket(AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Read all that waits. What it says does not matter: the state is read anew."""
        try:
            while self._socket.recv(65_536):
                pass
        except OSError:
            pass  # empty, or ENOBUFS: more changed than fits, which is told by then as well

    def close(self) -> None:
        self._socket.close()
