"""The gate: only a flow's first packet visits the TUN, the kernel carries the rest.

`plan` is the description (pure): marks, nft rules, policy rules, tables. `nft`, `routing` and
`conntrack` put it into the kernel and take it out again; `sender` re-sends a packet with its
verdict's mark; `gate` wires them and is the data plane that the packet loop sees.

One flow, step by step:
1. A program connects. nft marks the SYN as GATE, a policy rule sends it to the TUN.
2. The loop reads it, asks for the owner and decides.
3. The SYN is sent again on a raw socket whose SO_MARK is the verdict. nft copies that mark into
   the flow's conntrack mark, and every later packet follows it without leaving the kernel.
"""
