"""Two members both active, as the switch drops their heartbeats: no connection may suffer."""

from __future__ import annotations

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import judge
from ..member import HEARTBEAT_ETHERTYPE
from ..shell import wait_until
from . import Check, Context

_CONNECTIONS = 1000
_REQUESTS = 10


def split_brain(context: Context) -> None:
    """1,000 connections of ten requests to two active members."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, first = bed.vmac(), bed.active()
        bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [first.name])
        wait_until(lambda: len(bed.actives()) == 2, "two active members", timeout=5)
        client = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES,
            context.home / "client.log",
            opens=_CONNECTIONS,
            every_us=4000,
            requests=_REQUESTS,
            gap_ms=5,
            timeout_ms=3000,
        )
        results = client.wait(timeout=60)
        report.equal("members active at the end of the load", len(bed.actives()), 2)
        report.at_least("heartbeats the switch dropped", bed.network.unblock(), 1)
        healed = wait_until(lambda: len(bed.actives()) == 1, "one active member again", timeout=5)
        story = judge(report, bed, vmac)
    twins = story.twins()
    report.equal("connections broken", [(c.tuple, c.error) for c in results.failed() if c.tuple not in twins], [])
    whole = [c for c in results.connections if not c.error]
    report.equal("requests of whole connections", sum(c.answers for c in whole), len(whole) * _REQUESTS)
    resets = [reset for reset in story.client_resets if reset.client not in twins]
    report.equal("resets sent by the client", len(resets), 0)
    report.at_most("set aside: two members chose one sequence number", len(twins), _CONNECTIONS // 100)
    raced = sum(1 for life in story.all_lives() if len(life.answered_by()) > 1)
    report.at_least("connections that two members answered", raced, 1)
    report.equal("members that won connections", len(results.served()), 2)
    report.number("answers by member", results.served())
    report.number("longest wait (ms)", results.longest_ms())
    report.number("segments sent again by the client", results.retransmits())
    report.number("one active again after (ms)", healed * 1000)


CHECKS = [Check("split-brain", "two members both active: no connection breaks, no reset", split_brain, {})]
