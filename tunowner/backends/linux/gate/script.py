"""The gate's nftables rules as text. Pure; nft(8) describes the language.

Why it looks like this:
- `type route`: a changed mark makes the kernel choose the route again (nft(8), chain types).
- Marks are compared and set under the mask of our byte only, with a constant for each verdict:
  expressions that combine two registers need a kernel newer than those we support.
- The flow's verdict lives in its conntrack mark.
- NAT is bound once for a conntrack entry. On the first pass, into the TUN, a flow is bound to "as it
  is", before other people's NAT rules can see it: what we read is what the program sent. That entry
  is marked GATE. A verdict that lets the flow pass is refused (EPERM) as long as it meets such an
  entry: it has to be deleted first (see gate.py), and the second pass then meets all NAT rules, ours
  and others', as if there had been no first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunowner.backends.linux.gate.plan import NFT_TABLE, TUN_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.gate.plan import GatePlan, Marks, Via

_TCP_HEADERS = {"ip": 40, "ip6": 60}
"""Bytes of IP and TCP header without options, RFC 6691."""

_SYN = "meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn"
_NEW_CONNECTION = f"ct state new {_SYN} goto gate"
"""A SYN is asked for even when conntrack remembers a verdict: an attempt that nobody answered leaves
its entry for 120 s, and the port may be another program's by now."""

_LOST_VIA_S = 7_200
"""A TCP connection by an outbound is known for so long after its last packet: conntrack may forget
it sooner. `masquerade` itself does that when its interface goes down or loses the address (the
kernel's net/netfilter/nf_nat_masquerade.c), and an administrator by `conntrack -F`. Its next packet
then looks like one of a flow older than the table, and would leave by the main route. The time is
that of the first keep-alive probe (net.ipv4.tcp_keepalive_time)."""
_MOST_VIA = 262_144
"""Connections known, conntrack's own limit by default; the kernel takes memory as they come."""
_ENDS = {
    "4": ("ipv4_addr", "ip saddr . tcp sport . ip daddr . tcp dport"),
    "6": ("ipv6_addr", "ip6 saddr . tcp sport . ip6 daddr . tcp dport"),
}
_REMEMBER = [f"update @via{family} {{ {ends} }}" for family, (_, ends) in _ENDS.items()]
_ASK_FOR_LOST = [f"{ends} @via{family} goto gate" for family, (_, ends) in _ENDS.items()]

REMOVE = f"delete table inet {NFT_TABLE}\n"


def install(plan: GatePlan, *, owned: bool) -> str:
    """Return one transaction that adds the table. `owned`: it vanishes with its creator's socket."""
    marks = plan.marks
    lines = [f"table inet {NFT_TABLE} {{"]
    if owned:
        lines.append("flags owner;")
    lines += _via_sets()
    lines += _chain("out_route", "type route hook output priority mangle;", _out_route(plan))
    lines += _chain("fresh", "", _fresh(marks))
    lines += _chain("again", "", [_NEW_CONNECTION])
    lines += _chain("gate", "", [_set_meta(marks, marks.gate), _set_ct(marks, marks.gate)])
    lines += _chain("go_direct", "", [_first_pass(marks), f"{_set_ct(marks, marks.direct)} accept"])
    lines += _chain("go_block", "", _go_block(marks))
    lines += _chain("go_drop", "", [f"{_set_ct(marks, marks.drop)} counter drop"])
    lines += _chain("refuse", "", _refuse())
    for number, via in enumerate(plan.vias):
        steer = _steer(marks, via)
        lines += _chain(
            f"go_via{number}", "", [_first_pass(marks), _set_ct(marks, via.mark), *steer]
        )
        lines += _chain(f"via{number}", "", [_NEW_CONNECTION, *steer])
    lines += _chain(
        "out_nat", "type nat hook output priority -101;", _as_it_is(marks, "d", "daddr")
    )
    lines += _chain("post_nat", "type nat hook postrouting priority 99;", _post_nat(plan))
    lines += _chain("pre", "type filter hook prerouting priority mangle;", _replies(plan))
    lines += _chain("guard", "type filter hook postrouting priority mangle;", _guard(plan))
    return "\n".join([*lines, "}", ""])


def _via_sets() -> Iterator[str]:
    for family, (address, _) in _ENDS.items():
        yield f"set via{family} {{"
        yield f"type {address} . inet_service . {address} . inet_service"
        yield f"flags dynamic, timeout; timeout {_LOST_VIA_S}s; size {_MOST_VIA}"
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


def _first_pass(marks: Marks) -> str:
    """Refuse what would inherit the NAT binding of the first pass."""
    return f"{_ct_is(marks, marks.gate)} drop"


def _out_route(plan: GatePlan) -> list[str]:
    marks = plan.marks
    verdicts = {marks.direct: "go_direct", marks.block: "go_block", marks.drop: "go_drop"}
    verdicts |= {marks.refuse: "refuse"}
    verdicts |= {via.mark: f"go_via{number}" for number, via in enumerate(plan.vias)}
    flows = {0: "goto fresh", marks.gate: "goto gate", marks.block: "goto refuse"}
    flows |= {marks.drop: "drop", marks.direct: "goto again"}
    flows |= {via.mark: f"goto via{number}" for number, via in enumerate(plan.vias)}
    jumps = {mark: f"goto {chain}" for mark, chain in verdicts.items()}
    return [
        'oifname "lo" accept',
        f"meta mark & {marks.mask:#010x} vmap {_map(jumps)}",
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
        f"meta mark & {marks.others:#010x} != 0 accept",  # another program routes it: a VPN's own
        "fib daddr type { local, broadcast, multicast, anycast } accept",
        "ip daddr 169.254.0.0/16 accept",
        "ip6 daddr fe80::/10 accept",
        "udp sport 68 udp dport 67 accept",  # DHCP renewals are unicast, RFC 2131
        "udp sport 546 udp dport 547 accept",
        f"{_SYN} goto gate",  # no other segment: flows older than this table stay as they are
        *_ASK_FOR_LOST,
        "meta l4proto udp goto gate",
    ]


def _go_block(marks: Marks) -> list[str]:
    # TCP is not remembered: its port may be another program's before conntrack forgets the SYN.
    return ["meta l4proto tcp goto refuse", _set_ct(marks, marks.block), "goto refuse"]


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
    gated = f"meta mark & {marks.mask:#010x} == {marks.gate:#010x}"
    return [
        f"{gated} meta nfproto {protocol} {kind}nat {header} to {header} {field}"
        for protocol, header in (("ipv4", "ip"), ("ipv6", "ip6"))
    ]


def _post_nat(plan: GatePlan) -> list[str]:
    rules = ['oifname "lo" accept', *_as_it_is(plan.marks, "s", "saddr")]
    for via in plan.vias:
        exits = f'oifname "{via.exits[0]}" ' if via.exits else ""
        rules.append(f"{exits}{_ct_is(plan.marks, via.mark)} counter masquerade")
    return rules


def _replies(plan: GatePlan) -> list[str]:
    """Mark what comes back, so that strict rp_filter looks into the outbound's table."""
    rules = []
    for via in plan.vias:
        for name in via.exits:
            select = f'iifname "{name}" {_ct_is(plan.marks, via.mark)}'
            rules.append(f"{select} {_set_meta(plan.marks, via.mark)}")
            rules += [f"{select} {clamp}" for clamp in _clamp(via)]
    return rules


def _guard(plan: GatePlan) -> list[str]:
    marks = plan.marks
    rules = ['oifname "lo" accept']
    if plan.strict:
        gated = f"meta mark & {marks.mask:#010x} == {marks.gate:#010x}"
        rules.append(f'oifname != "{TUN_NAME}" {gated} counter drop')
    for via in plan.vias:
        if via.exits:
            leaving = f'oifname != "{via.exits[0]}" {_ct_is(marks, via.mark)}'
            rules.append(f"{leaving} counter drop")
    return rules
