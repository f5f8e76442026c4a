"""What members answer besides connections: ARP, pings, closed ports; and what status and metrics look like."""

from __future__ import annotations

import re
from typing import Any

from ..cluster import testbed
from ..judge import judge
from ..member import VIP
from ..shell import CommandFailed, run
from . import Check, Context

_STATUS: dict[str, Any] = {
    "node": str,
    "cluster": str,
    "version": str,
    "incarnation": int,
    "uptime_ms": int,
    "ready": bool,
    "draining": bool,
    "vips": [
        {
            "address": str,
            "mac": str,
            "role": str,
            "rank": (int, type(None)),
            "term": int,
            "actives": [str],
            "healthy": bool,
            "connections": {"pending": int, "established": int},
        }
    ],
    "peers": [{"name": str, "state": str, "last_heard_ms": int, "metric": (int, float), "draining": bool}],
    "workers": [{"core": int, "polls": int, "empty_polls": int}],
    "heartbeats": dict.fromkeys(
        ["accepted", "wrong_key", "replayed", "old_incarnation", "duplicate_name", "malformed", "other_version"], int
    ),
    "frames": dict.fromkeys(["wire_rx", "wire_tx", "host_rx", "host_tx"], int),
    "drops": dict.fromkeys(
        ["syn_passive", "no_connection", "lost_race", "oversize", "bad_checksum", "kernel_has_it"], int
    ),
}
_METRICS = [
    r'baton_frames_total\{[^}]*port="[^"]+"[^}]*\}',
    r'baton_frames_total\{[^}]*direction="[^"]+"[^}]*\}',
    r'baton_drops_total\{reason="syn_passive"\}',
    r'baton_connections\{[^}]*state="established"[^}]*\}',
    r'baton_role\{vip="10\.0\.0\.100"\}',
    r'baton_role_changes_total\{vip="10\.0\.0\.100"\}',
    r'baton_peer_up\{peer="s2"\}',
    r'baton_heartbeats_total\{result="accepted"\}',
    r"baton_worker_batch_size\S*",
    r"baton_forward_seconds_bucket\{[^}]*\}",
]


def answers(context: Context) -> None:
    """ARP by every member, a ping answered once, a closed port refused once, by the primary."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, active, where = bed.vmac(), bed.active(), bed.client.namespace
        run(["ip", "-n", where, "neighbour", "flush", "all"])
        pings = run(["ip", "netns", "exec", where, "ping", "-n", "-c", "5", "-i", "0.1", "-W", "1", VIP])
        neighbour = run(["ip", "-n", where, "neighbour", "show", VIP])
        curl = ["ip", "netns", "exec", where, "curl", "-sS", "--max-time", "2", f"http://{VIP}:81/"]
        try:
            run(curl)
            refused = "answered"
        except CommandFailed as error:
            refused = str(error)
        story = judge(report, bed, vmac, resets_allowed=True)
    report.equal("pings answered", len(re.findall(r"bytes from .* ttl=", pings)), 5)
    report.equal("pings answered twice", pings.count("DUP!"), 0)
    report.expect("the client's neighbour entry", neighbour.strip(), vmac, vmac in neighbour)
    report.equal("members that answered ARP", sorted({host for host, *_ in story.arp_answers}), ["s1", "s2", "s3"])
    report.expect("port 81", refused, "refused", "refused" in refused.lower() or "connect" in refused.lower())
    report.equal("members that sent resets", [reset.host for reset in story.member_resets], [active.name])


def _shape(value: Any, want: Any, where: str) -> list[str]:
    """How `value` differs from the shape `want`; fields may be added, not go."""
    if isinstance(want, dict):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        missing = [f"{where}.{key} is missing" for key in want if key not in value]
        return missing + [
            fault for key in want if key in value for fault in _shape(value[key], want[key], f"{where}.{key}")
        ]
    if isinstance(want, list):
        if not isinstance(value, list) or not value:
            return [f"{where} is no list with something in it"]
        return [fault for entry in value for fault in _shape(entry, want[0], f"{where}[]")]
    # In Python a bool is an int; in JSON it is not.
    fits = isinstance(value, want) and (want is bool or not isinstance(value, bool))
    return [] if fits else [f"{where} is {value!r}"]


def outside(context: Context) -> None:
    """`status --json` and /metrics have the fields and names that scripts hold on to."""
    report = context.report
    with testbed(context.home) as bed:
        faults = [fault for member in bed.members for fault in _shape(member.status(), _STATUS, member.name)]
        active = bed.active()
        metrics = bed.members[0].metrics()
        statuses = {member.name: member.status()["vips"][0] for member in bed.members}
        human = active.command("status")
        exits = {member.name: member.stop() for member in bed.members}
    report.equal("faults of status --json", faults, [])
    report.equal(
        "metrics missing", [name for name in _METRICS if not re.search(rf"^{name} \S+", metrics, re.MULTILINE)], []
    )
    report.equal("the active's rank", statuses[active.name]["rank"], 0)
    report.equal("who the members say is active", [vip["actives"] for vip in statuses.values()], [[active.name]] * 3)
    report.expect("status for people names the VIP", VIP in human, "yes", VIP in human)
    report.equal("exit status after SIGTERM", set(exits.values()), {0})


CHECKS = [
    Check("answers", "ARP, ping and closed ports are answered as they should be, once", answers, {}),
    Check("outside", "status and metrics have the shape that scripts hold on to", outside, {}),
]
