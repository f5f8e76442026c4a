"""What the switch says of itself, and how one member is cut off from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from testbed.report import Report
from testbed.shell import run

from .stack import MEMBERS, Stack

_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")


class Switch(Protocol):
    """What both testbeds' switches can."""

    def cut(self, member: str) -> str:
        """Cuts a member off; returns how, as a command."""

    def mend(self, member: str) -> str:
        """Connects it again; returns how."""

    def look(self) -> None:
        """Takes note of the forwarding table."""

    def judge(self, report: Report, vmac: str) -> None:
        """Prints table and statistics; expects that the vMAC was never in the table."""


@dataclass
class DockerBridge:
    """The Linux bridge of a Docker network. A container of the project notes every change of its table."""

    stack: Stack

    @property
    def _network(self) -> str:
        return f"{self.stack.project}_lan"

    def cut(self, member: str) -> str:
        """Takes the host off the network, and with that its interface."""
        run(["docker", "network", "disconnect", self._network, self.stack.container(f"web-{member}")])
        return f"docker network disconnect {self._network} web-{member}"

    def mend(self, member: str) -> str:
        """The host gets an interface again, which is another one: baton starts anew on it."""
        address = f"10.77.0.1{member[1:]}"
        run(["docker", "network", "connect", "--ip", address, self._network, self.stack.container(f"web-{member}")])
        self.stack.docker("restart", member)
        return f"docker network connect {self._network} web-{member}; docker restart {member}"

    def look(self) -> None:
        """Not needed: every change is noted as it happens."""

    def judge(self, report: Report, vmac: str) -> None:
        """By the bridge's own notifications and its table now."""
        noted = run(["docker", "logs", self.stack.container("watch")])
        table = self.stack.inside("watch", "bridge", "fdb", "show", "br", "baton-plain")
        on_bridge = [line for line in table.splitlines() if "master baton-plain" in line and "permanent" not in line]
        print("\n".join(f"       {line}" for line in on_bridge))
        learnt = set(_MAC.findall((noted + table).lower()))
        report.at_least("addresses that the bridge has learnt", len(learnt), len(MEMBERS) + 1)
        report.equal("the vMAC among them", vmac in learnt, False)


@dataclass
class OpenVSwitch:
    """Open vSwitch. It counts what it learns, so a table that was looked at now and then shows whether all was seen."""

    stack: Stack
    seen: set[tuple[str, str]] = field(default_factory=set)

    def _ovs(self, *command: str) -> str:
        return self.stack.inside("switch", *command)

    def cut(self, member: str) -> str:
        """The port goes down."""
        self._ovs("ovs-ofctl", "mod-port", "br0", member, "down")
        return f"ovs-ofctl mod-port br0 {member} down"

    def mend(self, member: str) -> str:
        """The port comes up again."""
        self._ovs("ovs-ofctl", "mod-port", "br0", member, "up")
        return f"ovs-ofctl mod-port br0 {member} up"

    def look(self) -> None:
        """Adds what the table holds now to what was seen."""
        for line in self._ovs("ovs-appctl", "fdb/show", "br0").splitlines()[1:]:
            port, _, mac = line.split()[:3]
            self.seen.add((port, mac))

    def judge(self, report: Report, vmac: str) -> None:
        """By the table, what it held before, and how often it learnt."""
        self.look()
        print("\n".join(f"       {line}" for line in self._ovs("ovs-appctl", "fdb/show", "br0").splitlines()))
        statistics = self._ovs("ovs-appctl", "fdb/stats-show", "br0")
        print("\n".join(f"       {line.strip()}" for line in statistics.splitlines()))
        for member in MEMBERS:
            counters = self._ovs("ovs-vsctl", "get", "Interface", member, "statistics")
            numbers = dict(re.findall(r"(\w+)=(\d+)", counters))
            wanted = ("rx_packets", "tx_packets", "rx_dropped", "tx_dropped", "ovs_tx_failure_drops", "ovs_tx_retries")
            print(f"       {member}: " + ", ".join(f"{name} {numbers[name]}" for name in wanted if name in numbers))
            report.at_least(f"frames that OVS received from {member}", int(numbers["rx_packets"]), 100)
        counted = {name.strip(): int(value) for name, value in re.findall(r"([a-z ]+?)\s*:\s*(\d+)", statistics)}
        report.numbers["forwarding table"] = counted
        report.at_least("addresses that the switch has learnt", len(self.seen), len(MEMBERS) + 1)
        report.equal("the vMAC among them", vmac in {mac for _, mac in self.seen}, False)
        lookups = self._ovs("ovs-appctl", "dpif-netdev/pmd-stats-show")
        keep = ("packets received", "idle cycles", "busy cycles", "sleep", "pmd thread")
        print("\n".join(f"       {line.strip()}" for line in lookups.splitlines() if any(k in line for k in keep)))
