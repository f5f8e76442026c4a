"""What the machines are like that members live on. Namespaces of this machine are the measure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """A site that is other than namespaces says so here, before its first testbed."""

    load: float = 1.0
    """By how much less often clients connect and ask: an emulated processor carries less."""
    patience: float = 1.0
    """By how much longer clients wait for a connection, and for an answer."""
    heartbeats: float = 1.0
    """By how much longer the heartbeats' interval is, and with it the detection of a death. `--set heartbeats=` says so too."""
    answers: float = 1.0
    """By how much later a member's first answer to a SYN may leave: a processor that stands still knows nothing."""
    kernels_apart: bool = False
    """Whether members have kernels of their own. Then nothing is set aside: no two share a secret."""


pace = Pace()
