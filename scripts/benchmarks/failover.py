"""How long new connections are not accepted when the active server dies, hands over, or is cut off from the others.

Every system is measured by the same client, which attempts a connection every 2 ms, each on a socket of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from testbed.clients.control import Client, Results, long_connections
from testbed.shell import run

from .clusters import BatonCluster, Bed, Cluster, Keepalived, Ucarp, bed
from .plan import Plan, System
from .xt_cluster import XtCluster

_EVERY_US = 2000
_BEFORE = 0.7
_LONG = 20


@dataclass(frozen=True)
class Sample:
    """One event. Times are in ms."""

    system: str
    round: int
    event: str
    victim: str
    gap: float
    """The longest stretch between a connection accepted and the next, of those that reach beyond the event."""
    usual: float
    """The same before the event: what the probe and a busy machine contribute by themselves."""
    longest: float
    """The longest that a connection opened within a second of the event, and served, took to be."""
    failed: int
    """Attempts after which nobody answered within 900 ms, or that were reset."""
    broken: int | None
    """Of the connections in use since before: those that broke. Not told of a kill, which ends the victim's own."""


def measure(plan: Plan, home: Path) -> list[dict[str, object]]:
    """All rounds; in each, every system is raised anew and meets the event some times."""
    samples: list[Sample] = []
    for number in range(plan.rounds):
        for system in plan.systems:
            with bed(home / f"{number}-{plan.systems.index(system)}") as place, cluster(place, system) as running:
                for again in range(plan.events):
                    sample = _once(place, plan, system, running, number, f"{number}-{again}")
                    samples.append(sample)
                    print(f"  round {number + 1}: {system.name:28}{sample.gap:9.1f} ms", flush=True)
    return [asdict(sample) for sample in samples]


@contextlib.contextmanager
def cluster(place: Bed, system: System) -> Iterator[Cluster]:
    """Starts a cluster of a file and stops it again."""
    kinds = {"baton": BatonCluster, "keepalived": Keepalived, "ucarp": Ucarp, "xt_cluster": XtCluster}
    running: Cluster = kinds[system.kind](place, system)
    try:
        yield running
    finally:
        running.stop()


def _once(place: Bed, plan: Plan, system: System, running: Cluster, number: int, label: str) -> Sample:
    victim = running.active()
    where, log = place.client.namespace, place.home / f"client-{label}.log"
    # Of those that the victim serves, be they all clients or its share of them.
    sources = running.clients(victim)
    long = None
    if plan.event != "kill":
        long = long_connections(where, sources[:1], log, _LONG, gap_ms=20, timeout_ms=3000)
    # Shorter than the second after which the kernel sends a SYN again: no attempt lives on a retransmission.
    probe = Client(where, sources[1:], log, every_us=_EVERY_US, requests=1, timeout_ms=900)
    time.sleep(_BEFORE)
    happened = time.monotonic_ns()
    _happen(place, plan.event, running, victim)
    time.sleep(running.patience)
    if plan.event == "split":
        place.network.unblock()
        time.sleep(running.patience)
    results = probe.stop()
    broken = None if long is None else len(long.stop().failed())
    _undo(place, plan.event, running, victim)
    return _sample(results, happened, (system.name, number, plan.event, victim), broken)


def _happen(place: Bed, event: str, running: Cluster, victim: str) -> None:
    if event == "kill":
        running.kill(victim)
        place.network.cut(victim)
    elif event == "split":
        running.part(victim)
    else:
        running.hand_over(victim)


def _undo(place: Bed, event: str, running: Cluster, victim: str) -> None:
    if event == "kill":
        running.clear(victim)
        place.network.mend(victim)
        running.revive(victim)
    elif event == "handover":
        running.hand_back(victim)
    # If a loser was the last to announce the address, the client asks a wrong server until that ages. This event's figures
    # have it as far as they reach; the next event is to begin with a client that is served.
    run(["ip", "-n", place.client.namespace, "neighbour", "flush", "all"])


def _sample(results: Results, happened: int, about: tuple[str, int, str, str], broken: int | None) -> Sample:
    """A connection counts as accepted when its handshake completed, and only if its request was then answered."""
    connections = results.connections
    accepted = sorted(c.connected for c in connections if c.connected and not c.error)
    last = max(c.opened for c in connections)
    # Where nobody was served again, the gap ends with the measurement: it is longer than that.
    if not accepted or last - accepted[-1] > 100 * 10**6:
        accepted.append(last)
    gaps = [after - before for before, after in pairwise(accepted) if after > happened]
    usual = [after - before for before, after in pairwise(accepted) if after <= happened]
    around = [c.longest for c in connections if abs(c.opened - happened) <= 10**9 and not c.error]
    figures = (round(max(each, default=0) / 1e6, 2) for each in (gaps, usual, around))
    return Sample(*about, *figures, sum(1 for c in connections if c.error), broken)
