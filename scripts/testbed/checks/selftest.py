"""The testbed examined without baton: the first member holds the VIP as a plain address.

What the checks judge by must itself be shown to work: that traffic flows, that captures are complete, that a frame
with a forbidden source is seen, that the watch on the forwarding table notices, that cuts cut.
"""

from __future__ import annotations

import socket
import time
from statistics import median

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import read_story
from ..member import HEARTBEAT_ETHERTYPE, VIP
from ..packets import ACK, SYN
from ..shell import inside, run
from ..tools import Flooder, add_distant_host, round_trip_ms
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
        report.equal(
            "copies of a heartbeat dropped by a block (to two members and the client)", bed.network.unblock(), 3
        )
        _send(bed.members[1].host.namespace, heartbeat)
        bed.network.part(["s2"], ["s3"])
        _send(bed.members[1].host.namespace, heartbeat)
        time.sleep(0.1)
        report.equal("copies of it dropped where the switch is parted (to one member)", bed.network.unblock(), 1)
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
    report.equal("heartbeats in the captures", len(story.heartbeats.get("s2", [])), 3)
    report.equal("frames with a forged source in the captures", story.sources["s3", _FORGED], 1)
    report.equal("the forwarding table watch saw the forged source", _FORGED in learnt, True)
    report.equal("frames lost by the captures", bed.captures.lost, 0)
    report.equal("the address under test", VIP in {life.client[0] for life in story.all_lives()}, False)


def long_cable(context: Context) -> None:
    """The long cable takes its time, loses nothing, and handshakes over it take one round trip."""
    report = context.report
    with testbed(context.home, without_baton=True) as bed:
        distant, _ = add_distant_host(bed.network, "c2", 3, each_way="50ms", log=context.home / "cable.log")
        round_trip = round_trip_ms(distant.namespace, bed.members[1].host.address)
        client = Client(distant.namespace, [distant.address], context.home / "client.log", opens=400, every_us=4000)
        results = client.wait(timeout=30)
    report.expect("median ping (ms)", round_trip, "100 to 104", 100 <= round_trip <= 104)
    handshakes = [(c.connected - c.opened) / 1e6 for c in results.connections if c.connected]
    report.at_least("shortest handshake", min(handshakes), 100, "ms")
    report.at_most("median handshake", median(handshakes), 104, "ms")
    report.equal("connections that failed", results.errors(), {})
    report.equal("segments sent again", results.retransmits(), 0)


def flood_tool(context: Context) -> None:
    """The flood's SYNs are good ones: a plain kernel answers them, in the rate it was told and at its highest."""
    report = context.report
    with testbed(context.home, without_baton=True, capture_filter=f"tcp and src host {VIP}") as bed:
        outsider = bed.network.add_host("x1", 1)
        for member in bed.members:
            member.host.run(["ip", "route", "add", "default", "via", outsider.address])
        slow = Flooder(outsider, bed.members[0].host.mac, context.home / "slow.log", seconds=2, rate=1000).wait()
        bed.captures.stop()
        answered = sum(1 for frame in bed.captures.frames() if (tcp := frame.tcp()) and tcp.flags == SYN | ACK)
        fast = Flooder(outsider, bed.members[0].host.mac, context.home / "fast.log", seconds=2).wait()
    report.expect("SYNs sent at 1,000 a second for 2 s", slow.sent, "1,900 to 2,100", 1900 <= slow.sent <= 2100)
    report.at_least("SYN-ACKs to forged addresses", answered, slow.sent * 0.95)
    report.at_least("highest rate (SYNs a second)", fast.rate, 20_000)


CHECKS = [
    Check("instruments", "the testbed's own instruments work (without baton)", instruments, {}, needs_baton=False),
    Check("long-cable", "the long cable gives 100 ms round trips (without baton)", long_cable, None, needs_baton=False),
    Check("flood-tool", "the flood is made of good SYNs (without baton)", flood_tool, None, needs_baton=False),
]
