"""How long a segment of an established connection takes from the wire to the host, through a system and two cables.

The tool that sends and receives (`testbed-latency`) is on one core, the system's worker on the other. Its own part, the
packet sockets and the cables, is in every figure alike: DPDK's `io` on the same ports is the floor.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from testbed.shell import run
from testbed.tools import tool

from . import site
from .forwarders import Ports, forwarder
from .plan import Plan, System
from .site import CLIENT_MAC, VIP, VMAC, Site

_CORE = 0
# As baton's own configuration of a kernel's interface has it.
_RING = "blocksz=65536,framesz=2048,framecnt=4096"


def measure(plan: Plan, home: Path) -> list[dict[str, object]]:
    """All rounds, as JSON has them. Times are in nanoseconds."""
    samples: list[dict[str, object]] = []
    with site.site(home) as place, site.held_sockets(place, 1):
        for number in range(plan.rounds):
            for system in plan.systems:
                sample = _once(place, plan, system)
                samples.append({"system": system.name, "round": number, **sample})
                median, tail = (sample["percentiles"][at] / 1000 for at in ("50", "99.99"))  # type: ignore[index]
                figures = f"p50 {median:8.1f} µs  p99.99 {tail:8.1f} µs"
                print(f"  round {number + 1}: {system.name:24} {figures}", flush=True)
    return samples


def _once(place: Site, plan: Plan, system: System) -> dict[str, object]:
    ports = Ports(f"net_af_packet0,iface=wire,{_RING}", f"net_af_packet1,iface=host,{_RING}", 16_384)
    command = [tool("testbed-latency"), "--send", "wire-far", "--receive", "host-far", "--from", CLIENT_MAC]
    command += ["--to", VMAC, "--vip", VIP, "--size", str(max(70, plan.traffic.sizes[0])), "--rate", str(plan.rate)]
    command += ["--duration", f"{plan.seconds * 1000:.0f}ms"]
    pinned = ["ip", "netns", "exec", place.far, "taskset", "--cpu-list", str(_CORE if (os.cpu_count() or 1) > 1 else 0)]
    with forwarder(place, system, ports):
        result: dict[str, object] = json.loads(run([*pinned, *command], timeout=plan.seconds + 30))
    if result["received"] == 0:
        raise RuntimeError(f"nothing came through {system.name}")
    return result
