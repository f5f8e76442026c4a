"""The switch never learns the vMAC, whatever the cluster goes through."""

from __future__ import annotations

import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import Absence, judge
from ..member import HEARTBEAT_ETHERTYPE, wait_ready
from ..shell import run, wait_until
from . import Check, Context


def fdb_clean(context: Context) -> None:
    """Start, traffic, ARP, handover, two actives, a death, a return and the end, under one watch."""
    report = context.report
    with testbed(context.home, start=False) as bed:
        for member in bed.members:
            member.start()
        wait_ready(bed.members)
        bed.active()
        vmac = bed.vmac()
        client = Client(bed.client.namespace, CLIENT_ADDRESSES, context.home / "client.log", every_us=5000)
        bed.passives()[0].activate()
        run(["ip", "-n", bed.client.namespace, "neighbour", "flush", "all"])
        bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [bed.active().name])
        wait_until(lambda: len(bed.actives()) == 2, "two active members", timeout=5)
        bed.network.unblock()
        wait_until(lambda: len(bed.actives()) == 1, "one active member again", timeout=5)
        victim, killed = bed.active(), time.time_ns()
        victim.kill()
        bed.network.cut(victim.name)
        time.sleep(0.5)
        bed.network.mend(victim.name)
        victim.start()
        wait_ready(bed.members)
        absence = Absence(victim.name, killed, time.time_ns())
        results = client.stop()
        for member in bed.members:
            member.stop()
        story = judge(report, bed, vmac, resets_allowed=True, absences=[absence])
    answered = sum(story.arp_answers.values())
    report.at_least("ARP answers for the VIP meanwhile", answered, 3)
    report.at_least("connections served meanwhile", len(results.connections) - len(results.failed()), 100)


CHECKS = [Check("fdb-clean", "the switch never learns the vMAC, whatever the cluster goes through", fdb_clean, {})]
