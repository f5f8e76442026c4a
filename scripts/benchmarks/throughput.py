"""Frames a second through a system's worker: rounds A B A B, ratios taken within a round."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from . import site
from .forwarders import Ports, forwarder, testpmd
from .machine import Share
from .plan import Plan, System
from .site import Site

# Before counting: caches, the table and the branch predictors warm up, testpmd's first lines are written.
_SETTLE = 1.0


@dataclass(frozen=True)
class Sample:
    """One system in one round."""

    system: str
    round: int
    rate: float
    """Frames received a second of the worker's time."""
    passed: float
    """Those that it sent on, of those received."""
    wall_rate: float
    """Frames received a second of wall time."""
    share: float
    """What part of its core the worker had."""


def measure(plan: Plan, home: Path) -> list[dict[str, object]]:
    """All rounds, as JSON has them."""
    samples = []
    with site.huge_pages(plan.huge_pages), site.site(home) as place:
        file = site.capture(plan.traffic) if plan.wire != "null" else None
        held = max((int(system.settings.get("held", 0)) for system in plan.systems), default=0)
        with site.held_sockets(place, held):
            for number in range(plan.rounds):
                for system in plan.systems:
                    samples.append(_once(place, plan, system, number, file))
                    seen = samples[-1]
                    print(f"  round {number + 1}: {seen.system:24}{seen.rate / 1e6:8.3f} million/s of its core's time, "
                          f"{seen.share:4.0%} of which it had", flush=True)
    return [asdict(sample) for sample in samples]


def _once(place: Site, plan: Plan, system: System, number: int, file: Path | None) -> Sample:
    with _ports(place, plan, file) as ports, forwarder(place, system, ports) as running:
        time.sleep(_SETTLE)
        share, first = Share(running.pid), running.count()
        time.sleep(plan.seconds)
        last, ran = running.count(), share.busiest()
    wall, received = last.at - first.at, last.received - first.received
    part = min(1.0, ran / wall) if running.pid else 1.0
    if received == 0:
        raise RuntimeError(f"{system.name} received nothing")
    return Sample(
        system.name,
        number,
        round(received / wall / part),
        round((last.passed - first.passed) / received, 4),
        round(received / wall),
        round(part, 4),
    )


@contextlib.contextmanager
def _ports(place: Site, plan: Plan, file: Path | None) -> Iterator[Ports]:
    """The devices; where the wire is a real link, with a generator at its far end."""
    host = {"none": "net_null1,no-rx=1", "ring": "net_ring1", "veth": "net_af_packet1,iface=host"}[plan.host]
    frames = (file.stat().st_size // 76 + 1) if file is not None else 0
    replay = f"net_pcap0,rx_pcap={file},infinite_rx=1"
    if plan.wire == "pcap":
        yield Ports(replay, host, frames, plan.huge_pages > 0)
    elif plan.wire == "null":
        yield Ports("net_null0,size=60", host, 0, plan.huge_pages > 0)
    elif plan.wire == "veth":
        far = Ports(replay, "net_af_packet1,iface=wire-far", frames)
        with testpmd(place, "io", far, core=0, namespace=place.far, log="generator"):
            wire = "net_af_packet0,iface=wire,blocksz=65536,framesz=2048,framecnt=4096"
            yield Ports(wire, host, 8192, plan.huge_pages > 0)
    else:
        path = place.network.directory / "vhost.sock"
        far = Ports(replay, f"net_vhost1,iface={path},queues=1", frames)
        with testpmd(place, "io", far, core=0, namespace=place.far, log="generator"):
            yield Ports(f"net_virtio_user0,path={path},queues=1,queue_size=1024", host, 8192, plan.huge_pages > 0)
        path.unlink(missing_ok=True)
