"""The gate's nftables rules as text. Pure; nft(8) describes the language.

Why it looks like this:
- `type route`: a changed mark makes the kernel choose the route again (nft(8), chain types).
- Marks are compared and set under the mask of our byte only, with a constant for each verdict:
  expressions that combine two registers need a kernel newer than those we support.
- The flow's verdict lives in its conntrack mark.
- A SYN is asked for before conntrack sees it, whatever conntrack remembers: an attempt that nobody
  answered leaves its entry for 120 s, and the port may be another program's by now. Its first pass,
  into the TUN, is tracked in a conntrack zone of its own, for a second; so its second pass meets
  conntrack and all NAT rules, ours and others', as if there had been no first. It has to be tracked
  at all for the firewalls that let pass what is `ct state new`.
- A socket bound to a device sends its SYN there and not into the TUN, whatever the mark. That one is
  tracked as usual, or its answer would be of no known connection. Only its route tells it apart.
- A datagram looks like the next one of its flow, so only conntrack can tell which is the first. NAT
  is bound once for a conntrack entry. On the first pass the flow is bound to "as it is", before
  other people's NAT rules can see it: what we read is what the program sent. That entry is marked
  GATE.
- A verdict that lets a flow pass is refused (EPERM) as long as it meets the entry of a first pass or
  of another verdict, whose NAT it would inherit: that has to be deleted first (see gate.py).
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from tunowner.backends.linux.gate.plan import NFT_TABLE, TUN_GATEWAYS, TUN_NAME, TUN_ZONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.gate.plan import GatePlan, Marks, Via

_TCP_HEADERS = {"ip": 40, "ip6": 60}
"""Bytes of IP and TCP header without options, RFC 6691."""

_SYN = "meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn"
_LOOPBACK = 'oif "lo" accept'
_ASKED_S = 1
"""The entry of a first pass has served once the packet is in the TUN."""
_LOST_VIA_S = 7_200
"""A TCP connection by an outbound is known for so long after its last packet: conntrack may forget
it sooner. `masquerade` itself does that when its interface goes down or loses the address (the
kernel's net/netfilter/nf_nat_masquerade.c), and an administrator by `conntrack -F`. Its next packet
then looks like one of a flow older than the table, and would leave by the main route. The time is
that of the first keep-alive probe (net.ipv4.tcp_keepalive_time)."""
_MOST = 262_144
"""Connections known in each set, conntrack's own limit by default; the kernel takes memory as they come."""
_ENDS = {
    "4": "ip saddr . tcp sport . ip daddr . tcp dport",
    "6": "ip6 saddr . tcp sport . ip6 daddr . tcp dport",
}
_DROPPED_S = 130
"""A dropped SYN is sent again for 127 s, at the default tcp_syn_retries = 6 (tcp(7)). All of them
have one sequence number, and the next connection on the same ports has another: so this memory
need not end with the socket."""
_REMEMBER_DROPPED = [
    f"{_SYN} update @dropped{family} {{ {ends} . tcp sequence }}" for family, ends in _ENDS.items()
]
_STILL_DROPPED = [f"{ends} . tcp sequence @dropped{family} drop" for family, ends in _ENDS.items()]
_REMEMBER = [f"update @via{family} {{ {ends} }}" for family, ends in _ENDS.items()]
_ASK_FOR_LOST = [f"{ends} @via{family} goto gate" for family, ends in _ENDS.items()]

REMOVE = f"delete table inet {NFT_TABLE}\n"


def install(plan: GatePlan, *, owned: bool) -> str:
    """Return one transaction that adds the table. `owned`: it vanishes with its creator's socket."""
    marks = plan.marks
    lines = [f"table inet {NFT_TABLE} {{"]
    if owned:
        lines.append("flags owner;")
    lines += ["ct timeout asked {", "protocol tcp", f"policy = {{ syn_sent : {_ASKED_S} }}", "}"]
    lines += _memories()
    syn_only = f"{_SYN} goto opening"
    lines += _chain("out_syn", "type route hook output priority raw;", [syn_only])
    lines += _chain("opening", "", _opening(marks))
    lines += _chain("out_zone", "type filter hook output priority raw + 10;", _zone(marks))
    lines += _chain("out_route", "type route hook output priority mangle;", _out_route(plan))
    lines += _chain("fresh", "", _fresh(marks))
    lines += _chain("asked", "", ['meta l4proto tcp ct timeout set "asked"', "accept"])
    lines += _chain("gate", "", [_set_meta(marks, marks.gate), _set_ct(marks, marks.gate)])
    lines += _chain("go_direct", "", [*_pass(marks, marks.direct), "accept"])
    lines += _chain("go_block", "", _go_block(marks))
    lines += _chain("go_drop", "", _go_drop(marks))
    lines += _chain("refuse", "", _refuse())
    for number, via in enumerate(plan.vias):
        steer = _steer(marks, via)
        lines += _chain(f"go_via{number}", "", [*_pass(marks, via.mark), *steer])
        lines += _chain(f"via{number}", "", steer)
        lines += _chain(f"back{number}", "", [_set_meta(marks, via.mark), *_clamp(via)])
    lines += _chain(
        "out_nat", "type nat hook output priority -101;", _as_it_is(marks, "d", "daddr")
    )
    lines += _chain("post_nat", "type nat hook postrouting priority 99;", _post_nat(plan))
    # A chain costs each packet its turn, so that an empty one is left out.
    if replies := _replies(plan):
        lines += _chain("pre", "type filter hook prerouting priority mangle;", replies)
    if guard := _guard(plan):
        lines += _chain("guard", "type filter hook postrouting priority mangle;", guard)
    return "\n".join([*lines, "}", ""])


def _memories() -> Iterator[str]:
    for family, ends in _ENDS.items():
        yield from _memory(f"via{family}", ends, _LOST_VIA_S)
        yield from _memory(f"dropped{family}", f"{ends} . tcp sequence", _DROPPED_S)


def _memory(name: str, fields: str, seconds: int) -> Iterator[str]:
    yield f"set {name} {{"
    yield f"typeof {fields}"
    yield f"flags dynamic, timeout; timeout {seconds}s; size {_MOST}"
    yield "}"


def _chain(name: str, hook: str, rules: list[str]) -> Iterator[str]:
    yield f"chain {name} {{"
    if hook:
        yield f"{hook} policy accept;"
    yield from rules
    yield "}"


def _set_meta(marks: Marks, value: int) -> str:
    return f"meta mark set meta mark and {marks.others:#010x} or {value:#010x}"


def _set_ct(marks: Marks, value: int) -> str:
    return f"ct mark set ct mark and {marks.others:#010x} or {value:#010x}"


def _ct_is(marks: Marks, value: int) -> str:
    return f"ct mark & {marks.mask:#010x} == {value:#010x}"


def _pass(marks: Marks, verdict: int) -> list[str]:
    """Remember the verdict, unless the packet would inherit the NAT binding of another pass."""
    return [
        f"ct mark & {marks.mask:#010x} != {{ 0x0, {verdict:#010x} }} drop",
        _set_ct(marks, verdict),
    ]


def _opening(marks: Marks) -> list[str]:
    return [
        f"meta mark & {marks.mask:#010x} != 0 accept",  # a second pass
        _LOOPBACK,
        *_not_ours_to_ask(marks),
        *_STILL_DROPPED,
        _set_meta(marks, marks.gate),
    ]


def _zone(marks: Marks) -> list[str]:
    return [f"{into_tun} ct zone set {TUN_ZONE}" for into_tun, _ in _into_tun(marks)]


def _into_tun(marks: Marks) -> Iterator[tuple[str, str]]:
    """Yield a condition for packets on their way into the TUN, and the IP header it is for."""
    gated = f"meta mark & {marks.mask:#010x} == {marks.gate:#010x}"
    for family, header in ((AF_INET, "ip"), (AF_INET6, "ip6")):
        yield f"{gated} rt {header} nexthop {TUN_GATEWAYS[family]}", header


def _not_ours_to_ask(marks: Marks) -> list[str]:
    return [
        f"meta mark & {marks.others:#010x} != 0 accept",  # another program routes it: a VPN's own
        "fib daddr type { local, broadcast, multicast, anycast } accept",
        "ip daddr 169.254.0.0/16 accept",
        "ip6 daddr fe80::/10 accept",
    ]


def _out_route(plan: GatePlan) -> list[str]:
    marks = plan.marks
    verdicts = {marks.direct: "go_direct", marks.block: "go_block", marks.drop: "go_drop"}
    verdicts |= {marks.refuse: "refuse"}
    verdicts |= {via.mark: f"go_via{number}" for number, via in enumerate(plan.vias)}
    verdicts |= {marks.gate: "asked"}
    jumps = {mark: f"goto {chain}" for mark, chain in verdicts.items()}
    flows = {0: "goto fresh", marks.gate: "goto gate", marks.block: "goto refuse"}
    flows |= {marks.drop: "drop"}
    flows |= {via.mark: f"goto via{number}" for number, via in enumerate(plan.vias)}
    ours = f"meta mark & {marks.mask:#010x}"
    return [
        _LOOPBACK,
        f"{ours} != 0 {ours} vmap {_map(jumps)}",
        f"{_ct_is(marks, marks.direct)} accept",  # nearly all packets end here
        "ct direction reply accept",  # answers of servers on this machine
        f"ct mark & {marks.mask:#010x} vmap {_map(flows)}",
        *_ASK_FOR_LOST,  # conntrack calls it invalid (nf_conntrack_tcp_loose=0)
    ]


def _map(verdicts: dict[int, str]) -> str:
    items = ", ".join(f"{mark:#010x} : {verdict}" for mark, verdict in verdicts.items())
    return f"{{ {items} }}"


def _fresh(marks: Marks) -> list[str]:
    return [
        "ct state != new accept",  # flows older than this table
        *_not_ours_to_ask(marks),
        "udp sport 68 udp dport 67 accept",  # DHCP renewals are unicast, RFC 2131
        "udp sport 546 udp dport 547 accept",
        *_ASK_FOR_LOST,  # no other segment: connections older than this table stay as they are
        "meta l4proto udp goto gate",
    ]


def _go_block(marks: Marks) -> list[str]:
    # TCP is not remembered: its port may be another program's before conntrack forgets the SYN.
    return ["meta l4proto tcp goto refuse", _set_ct(marks, marks.block), "goto refuse"]


def _go_drop(marks: Marks) -> list[str]:
    return [*_REMEMBER_DROPPED, "meta l4proto udp " + _set_ct(marks, marks.drop), "counter drop"]


def _refuse() -> list[str]:
    return [
        "meta l4proto tcp counter reject with tcp reset",
        "counter reject with icmpx type port-unreachable",
    ]


def _steer(marks: Marks, via: Via) -> list[str]:
    foreign = via.carried_mark != via.mark
    mark = f"meta mark set {via.carried_mark:#010x}" if foreign else _set_meta(marks, via.mark)
    return [mark, *_clamp(via), *_REMEMBER, "accept"]


def _clamp(via: Via) -> list[str]:
    """Limit what the peer sends us: the program's socket knows the MTU of another interface."""
    if not via.mtu:
        return ["tcp flags syn tcp option maxseg size set rt mtu"]
    return [
        f"meta nfproto {family} tcp flags syn tcp option maxseg size set {via.mtu - headers}"
        for family, headers in (("ipv4", _TCP_HEADERS["ip"]), ("ipv6", _TCP_HEADERS["ip6"]))
    ]


def _as_it_is(marks: Marks, kind: str, field: str) -> list[str]:
    """Bind the NAT of a packet for the TUN to no change. The hooks are one before others' NAT."""
    return [
        f"{into_tun} {kind}nat {header} to {header} {field}"
        for into_tun, header in _into_tun(marks)
    ]


def _post_nat(plan: GatePlan) -> list[str]:
    rules = [_LOOPBACK, *_as_it_is(plan.marks, "s", "saddr")]
    for via in plan.vias:
        exits = f'oifname "{via.exits[0]}" ' if via.exits else ""
        rules.append(f"{exits}{_ct_is(plan.marks, via.mark)} counter masquerade")
    return rules


def _replies(plan: GatePlan) -> list[str]:
    """Mark what comes back, so that strict rp_filter looks into the outbound's table."""
    return [
        f'iifname "{name}" {_ct_is(plan.marks, via.mark)} goto back{number}'
        for number, via in enumerate(plan.vias)
        for name in via.exits
    ]


def _guard(plan: GatePlan) -> list[str]:
    marks = plan.marks
    rules = []
    if plan.strict:
        gated = f"meta mark & {marks.mask:#010x} == {marks.gate:#010x}"
        rules.append(f'{gated} oifname != {{ "lo", "{TUN_NAME}" }} counter drop')
    for via in plan.vias:
        if via.exits:
            leaving = f'oifname != {{ "lo", "{via.exits[0]}" }}'
            rules.append(f"{_ct_is(marks, via.mark)} {leaving} counter drop")
    return rules
