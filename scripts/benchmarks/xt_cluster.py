"""The kernel's own way: servers with one address and one group MAC between them, each taking its share of the clients.

As iptables-extensions(8) has it, under "cluster": every server answers ARP for the virtual IP with the same multicast
MAC, so that the switch floods what is sent there; each kernel hashes the client's address and drops what is not of its
shares. Who holds which share is not the kernel's concern: here keepalived's, with a VRRP instance for each share,
which tells a script what has become of them.
"""

from __future__ import annotations

import itertools
import re
import signal

from testbed.clients.control import Client
from testbed.cluster import CLIENT_ADDRESSES
from testbed.member import VIP
from testbed.shell import Process, wait_until
from testbed.topology import SUBNET_PREFIX, Host

from .clusters import Bed, DaemonCluster, start_keepalived
from .plan import System

_GROUP_MAC = "01:00:5e:00:01:01"
_MARK = "0xffff"
_CHAIN = "shares"
# With this one each of three shares has at least two of the client's addresses.
_SEED = "0xdeadbeef"

# A rule for each share, which is `--cluster-local-nodemask` in pieces: what is told is about one share. Told through a
# pipe, in order: scripts that are started for each change overtake each other when two come at once, and a server that
# had all shares for a moment kept one. It ends with keepalived, not before the last is done.
_SCRIPT = """\
#!/bin/sh
trap '' TERM
while read -r _ name state _; do
    case $state in
    MASTER) do=-A ;;
    BACKUP | FAULT | STOP) do=-D ;;
    *) continue ;; # what is no change: MASTER_RX_LOWER_PRI
    esac
    share=${{name#\\"share}}
    iptables -w -t mangle $do {chain} -m cluster --cluster-total-nodes {total} --cluster-local-node "${{share%\\"}}" \\
        --cluster-hash-seed {seed} -j MARK --set-mark {mark}
done <"$1"
"""

_GLOBAL = """\
global_defs {{
    router_id {name}
    vrrp_version 3
    script_user root
    vrrp_notify_fifo {home}/roles
    vrrp_notify_fifo_script {home}/follow-roles
}}
"""

# It insists on an address for each instance: one that nobody asks for, on the loopback interface.
_INSTANCE = """\
vrrp_instance share{share} {{
    state BACKUP
    interface eth0
    virtual_router_id {router}
    priority {priority}
    advert_int {advert:g}
    virtual_ipaddress {{ 192.0.2.{share}/32 dev lo }}
}}
"""


class XtCluster(DaemonCluster):
    """As many shares as servers, each at home on one of them; whoever comes back takes its share back."""

    def __init__(self, bed: Bed, system: System) -> None:
        super().__init__(bed)
        self._advert = float(system.settings["advert"])
        self.patience = 1.5 + 3.5 * self._advert
        self._homes = {host.name: share for share, host in enumerate(bed.servers, start=1)}
        for host in bed.servers:
            self._prepare(host)
        self._begin()
        self._clients = self._who_serves()
        self._turn = itertools.cycle(self._homes)

    def _prepare(self, host: Host) -> None:
        """What iptables-extensions(8) asks for; of its rules those for all frames are for the virtual IP's here."""
        to_vip = ["iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "eth0", "-d", VIP]
        # It mangles ARP to the group MAC back, so that each server learns its neighbours.
        arp_in = ["arptables", "-A", "INPUT", "-i", "eth0", "--h-length", "6", "--destination-mac", _GROUP_MAC]
        arp_out = ["arptables", "-A", "OUTPUT", "-o", "eth0", "--h-length", "6", "-s", VIP]
        for command in (
            ["iptables", "-t", "mangle", "-N", _CHAIN],
            [*to_vip, "-j", _CHAIN],
            [*to_vip, "-m", "mark", "!", "--mark", _MARK, "-j", "DROP"],
            [*arp_in, "-j", "mangle", "--mangle-mac-d", host.mac],
            [*arp_out, "-j", "mangle", "--mangle-mac-s", _GROUP_MAC],
            # A segment in the midst of a connection of another server makes none here.
            ["sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=0"],
            ["ip", "maddr", "add", _GROUP_MAC, "dev", "eth0"],
            ["ip", "address", "add", f"{VIP}/{SUBNET_PREFIX}", "dev", "eth0"],
        ):
            host.run(command)
        script = self.bed.home / host.name / "follow-roles"
        script.write_text(_SCRIPT.format(chain=_CHAIN, total=len(self.bed.servers), seed=_SEED, mark=_MARK))
        script.chmod(0o755)

    def _start(self, host: Host) -> Process:
        home, servers = self.bed.home / host.name, len(self.bed.servers)
        config = _GLOBAL.format(name=host.name, home=home)
        for share in self._homes.values():
            # Its own first, then its neighbours' in a ring.
            away = (self._homes[host.name] - share) % servers
            priority = 150 if away == 0 else 100 + servers - away
            config += _INSTANCE.format(share=share, router=50 + share, priority=priority, advert=self._advert)
        return start_keepalived(host, home, config)

    def _held(self, name: str) -> list[int]:
        """The shares that a server's kernel takes."""
        rules = self.host(name).run(["iptables", "-t", "mangle", "-S", _CHAIN])
        masks = re.findall(r"--cluster-local-nodemask (0x[0-9a-f]+)", rules)
        return sorted(int(mask, 16).bit_length() for mask in masks)

    def _settle(self) -> None:
        def at_home() -> bool:
            return all(self._held(name) == [share] for name, share in self._homes.items())

        wait_until(at_home, "each share at home", timeout=self.patience + 20, every=0.05)

    def _who_serves(self) -> dict[str, list[str]]:
        """The client's addresses by the server that its hash gives them to."""
        log = self.bed.home / "who.log"
        asked = Client(self.bed.client.namespace, CLIENT_ADDRESSES, log, opens=len(CLIENT_ADDRESSES), timeout_ms=5000)
        clients: dict[str, list[str]] = {name: [] for name in self._homes}
        for connection in asked.wait(timeout=20).connections:
            if connection.error:
                raise RuntimeError(f"{connection.source} is not served: {connection.error}")
            clients[connection.member].append(connection.source)
        if min(map(len, clients.values())) < 2:
            raise RuntimeError(f"a share with less than two clients: {clients}; another seed is needed")
        return clients

    def active(self) -> str:
        self._settle()
        return next(self._turn)

    def clients(self, name: str) -> list[str]:
        return self._clients[name]

    def clear(self, name: str) -> None:
        self.host(name).run(["iptables", "-t", "mangle", "-F", _CHAIN])

    def hand_over(self, name: str) -> None:
        # As with its address: to stop it is the documented way.
        self._daemons[name].popen.send_signal(signal.SIGTERM)
