"""What the switch says of itself, and how one member is cut off from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from testbed.report import Report
from testbed.shell import run

from .stack import MEMBERS, Stack

_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")


class Switch(Protocol):
    """What both testbeds' switches can."""

    def watch(self, vmac: str) -> None:
        """From now on nothing that the switch learns about this address is missed."""

    def cut(self, member: str) -> str:
        """Cuts a member off; returns how, as a command."""

    def mend(self, member: str) -> str:
        """Connects it again; returns how."""

    def judge(self, report: Report, vmac: str) -> None:
        """Prints table and statistics; expects that the vMAC was never in the table."""


@dataclass
class DockerBridge:
    """The Linux bridge of a Docker network. A container of the project notes every change of its table."""

    stack: Stack

    @property
    def _network(self) -> str:
        return f"{self.stack.project}_lan"

    def watch(self, vmac: str) -> None:
        """The project's own container has done so since before the members started."""

    def cut(self, member: str) -> str:
        """Takes the host off the network, and with that its interface."""
        run(["docker", "network", "disconnect", self._network, self.stack.container(f"web-{member}")])
        return f"docker network disconnect {self._network} web-{member}"

    def mend(self, member: str) -> str:
        """The host is back, started anew: a running one would get an interface of another name."""
        host, address = f"web-{member}", f"10.77.0.1{member[1:]}"
        run(["docker", "network", "connect", "--ip", address, self._network, self.stack.container(host)])
        self.stack.docker("stop", member)
        self.stack.docker("restart", host)
        self.stack.docker("start", member)
        return f"docker network connect {self._network} {host}; docker restart {host} {member}"

    def judge(self, report: Report, vmac: str) -> None:
        """By the bridge's own notifications and its table now."""
        noted = run(["docker", "logs", self.stack.container("watch")])
        table = self.stack.inside("watch", "bridge", "fdb", "show", "br", "baton-plain")
        now = [line for line in table.splitlines() if _learnt_here(line)]
        print("\n".join(["       $ bridge fdb show br baton-plain", *(f"       {line}" for line in now)]))
        at_any_time = {mac for line in (noted + table).splitlines() if _learnt_here(line) for mac in _MAC.findall(line)}
        report.at_least("addresses that the bridge has learnt", len(at_any_time), len(MEMBERS) + 1)
        report.equal("the vMAC in its table, at any time", vmac in (noted + table).lower(), False)


def _learnt_here(line: str) -> bool:
    return "master baton-plain" in line and "permanent" not in line


@dataclass
class OpenVSwitch:
    """Open vSwitch. It learns from source addresses: a flow that changes nothing counts those that are the vMAC."""

    stack: Stack

    def _ovs(self, *command: str) -> str:
        return self.stack.inside("switch", *command)

    def watch(self, vmac: str) -> None:
        """The flow. What was learnt before is still in the table (for five minutes)."""
        self._ovs("ovs-ofctl", "add-flow", "br0", f"priority=100,dl_src={vmac},actions=NORMAL")
        if vmac in self._ovs("ovs-appctl", "fdb/show", "br0"):
            raise RuntimeError("the switch had learnt the vMAC before it was watched")

    def cut(self, member: str) -> str:
        """The port goes down."""
        self._ovs("ovs-ofctl", "mod-port", "br0", member, "down")
        return f"ovs-ofctl mod-port br0 {member} down"

    def mend(self, member: str) -> str:
        """The port comes up again."""
        self._ovs("ovs-ofctl", "mod-port", "br0", member, "up")
        return f"ovs-ofctl mod-port br0 {member} up"

    def judge(self, report: Report, vmac: str) -> None:
        """By the table, the flow's counter and the ports'."""
        table = self._ovs("ovs-appctl", "fdb/show", "br0")
        _show("ovs-appctl fdb/show br0", table)
        _show("ovs-appctl fdb/stats-show br0", self._ovs("ovs-appctl", "fdb/stats-show", "br0"))
        flow = self._ovs("ovs-ofctl", "dump-flows", "br0", f"dl_src={vmac}")
        _show(f"ovs-ofctl dump-flows br0 dl_src={vmac}", flow)
        for member in MEMBERS:
            numbers = dict(re.findall(r"(\w+)=(\d+)", self._ovs("ovs-vsctl", "get", "Interface", member, "statistics")))
            wanted = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "tx_dropped", "ovs_tx_failure_drops")
            print(f"       {member}: " + ", ".join(f"{name} {numbers[name]}" for name in wanted if name in numbers))
            report.at_least(f"frames that the switch received from {member}", int(numbers["rx_packets"]), 100)
        learnt = set(_MAC.findall(table))
        report.at_least("addresses that the switch has learnt", len(learnt), len(MEMBERS) + 1)
        report.equal("the vMAC among them", vmac in learnt, False)
        counted = [int(number) for number in re.findall(r"n_packets=(\d+)", flow)]
        report.equal("frames with the vMAC as their source", counted, [0])


def _show(command: str, output: str) -> None:
    print(f"       $ {command}")
    print("\n".join(f"       {line.strip()}" for line in output.splitlines()))
