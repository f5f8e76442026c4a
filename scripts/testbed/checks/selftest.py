"""The testbed examined without baton: the first member holds the VIP as a plain address.

What the checks judge by must itself be shown to work: that traffic flows, that captures are complete, that a frame
with a forbidden source is seen, that the watch on the forwarding table notices, that cuts cut.
"""

from __future__ import annotations

import socket
import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import read_story
from ..member import HEARTBEAT_ETHERTYPE, VIP
from ..shell import inside
from . import Check, Context

_FORGED = "02:ba:70:00:00:64"


def _send(namespace: str, frame: bytes) -> None:
    with inside(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind(("eth0", 0))
        raw.send(frame)


def instruments(context: Context) -> None:
    """Captures, forwarding table watch, clients, cuts and blocks do what the checks take for granted."""
    report = context.report
    forged = bytes.fromhex(_FORGED.replace(":", ""))
    with testbed(context.home, without_baton=True) as bed:
        client = Client(bed.client.namespace, CLIENT_ADDRESSES, context.home / "client.log", opens=300, every_us=2000)
        results = client.wait(timeout=30)
        heartbeat = b"\xff" * 6 + bytes.fromhex(bed.members[1].host.mac.replace(":", "")) + b"\x88\xb5" + bytes(46)
        bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, ["s2"])
        _send(bed.members[1].host.namespace, heartbeat)
        time.sleep(0.1)
        report.equal("copies of a heartbeat dropped by a block (to two members and the client)", bed.network.unblock(), 3)
        _send(bed.members[1].host.namespace, heartbeat)
        _send(bed.members[2].host.namespace, b"\xff" * 6 + forged + b"\x88\xb6" + bytes(46))

        bed.network.cut("s1")
        cut = Client(
            bed.client.namespace, CLIENT_ADDRESSES, context.home / "cut.log", opens=10, every_us=2000, timeout_ms=300
        ).wait(timeout=10)
        bed.network.mend("s1")
        learnt = bed.table_watch.stop()
        story = read_story(bed.captures.frames())
    report.equal("requests that failed", results.errors(), {})
    report.equal("answers by member", results.served(), {"s1": 300})
    report.equal("SYNs in the captures, those into the cut included", story.syns() >= 310, True)
    owners = [life.owner for life in story.all_lives() if life.syn_acks]
    report.equal("connections whose owner the captures show", owners, ["s1"] * 300)
    report.equal("connections that failed while the cable was cut", len(cut.failed()), 10)
    report.equal("heartbeats in the captures", len(story.heartbeats.get("s2", [])), 2)
    report.equal("frames with a forged source in the captures", story.sources["s3", _FORGED], 1)
    report.equal("the forwarding table watch saw the forged source", _FORGED in learnt, True)
    report.equal("frames lost by the captures", bed.captures.lost, 0)
    report.equal("the address under test", VIP in {life.client[0] for life in story.all_lives()}, False)


CHECKS = [Check("instruments", "the testbed's own instruments work (without baton)", instruments, {}, needs_baton=False)]
