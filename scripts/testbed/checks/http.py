"""Requests through the VIP with one active member."""

from __future__ import annotations

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import judge
from ..member import VIP
from ..shell import run
from . import Check, Context

_REQUESTS = 1000


def http_1000(context: Context) -> None:
    """1,000 requests, each on a connection of its own."""
    report = context.report
    with testbed(context.home) as bed:
        active, passives, vmac = bed.active(), bed.passives(), bed.vmac()
        before = {member.name: member.drops("syn_passive") for member in passives}
        client = Client(
            bed.client.namespace, CLIENT_ADDRESSES, context.home / "client.log", opens=_REQUESTS, every_us=3000
        )
        results = client.wait(timeout=60)
        dropped = {member.name: member.drops("syn_passive") - before[member.name] for member in passives}
        curl = ["ip", "netns", "exec", bed.client.namespace, "curl", "-sS", "--max-time", "5"]
        by_curl = run([*curl, f"http://{VIP}/who?curl"])
        story = judge(report, bed, vmac)
    report.equal("requests that failed", results.errors(), {})
    report.equal("answers by member", results.served(), {active.name: _REQUESTS})
    report.equal("SYNs dropped by each passive member", dropped, {member.name: _REQUESTS for member in passives})
    report.equal("what curl got", by_curl, f"{active.name} curl\n")
    report.equal("SYNs on the wire, curl's included", story.syns(), _REQUESTS + 1)
    several = sum(1 for life in story.all_lives() if len(life.syn_acks) != 1)
    report.equal("connections that got other than one SYN-ACK", several, 0)
    report.number("longest wait (ms)", results.longest_ms())


CHECKS = [Check("http-1000", "1,000 requests, one active: it serves all, the passives drop each SYN", http_1000, {})]
