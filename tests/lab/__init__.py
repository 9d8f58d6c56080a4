"""A network in which tests see where a flow went: three namespaces, servers, programs, counters.

    @pytest.mark.root
    def test_block(world):                              # own_world: one that may be spoilt
        alpha = world.app("alpha")                      # a program (python) of its own path
        engine = world.engine(rules)                    # tunowner run --json, in world.client
        (flow,) = alpha.probe("tcp", SERVICE6)          # options: programs/probe.py
        assert flow.error == "ECONNREFUSED"
        engine.wait_for_event("open", src=flow.src, action="block")
        world.arrivals.assert_none(proto="tcp")         # packets that reached the internet
        assert world.seen() == []                       # what its servers accepted
        assert engine.stop() == 0                       # SIGINT; engine.kill() is SIGKILL

`world` is shared by a module's tests; after each, the client must be as it was. Addresses are in
`topology`, ports in `world`. Needs: curl, dnsutils, iperf3, iproute2, nftables, util-linux.
"""
