"""A virtual machine: its qemu process, its two cards, and the agent inside it.

The card at the switch is the kind of PCI device that is rehearsed; its other end is a TAP interface, the machine's port
on the switch. The other card is for management alone, as one keeps on a server that gives a card away.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.shell import CommandFailed, Process, TimedOut, inside, run, wait_until

from .image import CACHE, Image

_AGENT_PORT = 7
_MANAGEMENT = "192.168.77"
NICS = ("virtio-net-pci", "e1000e")
DRIVERS = ("vfio-pci", "uio_pci_generic")
HOST_PORTS = ("tap", "vhost-net")
# No program of ours needs more, and vector units are the slowest part of an emulated processor.
_EMULATED_PROCESSOR = "Nehalem,+rdtscp,+invtsc,+pcid,+rdrand,+x2apic"


@dataclass(frozen=True)
class Kind:
    """What a rehearsal's machines are."""

    nic: str = NICS[0]
    driver: str = DRIVERS[0]
    """The one in the guest that gives the card to baton."""
    accelerator: str = "tcg"
    memory_mib: int = 768
    processors: int = 2

    @property
    def iommu(self) -> bool:
        """vfio-pci takes one, and the other way round there is none to hide behind."""
        return self.driver == "vfio-pci"


def accelerator(image: Image) -> str:
    """KVM where it runs our kernel, else qemu's own emulation: a /dev/kvm may be there and run other kernels only.
    Tried once and remembered."""
    remembered = CACHE / "accelerator"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    if not remembered.exists():
        remembered.write_text("kvm" if _runs_by_kvm(image) else "tcg")
    return remembered.read_text()


def _runs_by_kvm(image: Image) -> bool:
    """Whether the kernel comes as far as to miss its root, and ends the machine for that."""
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256", "-nodefaults"]
    command += ["-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(image.kernel)]
    try:
        done = subprocess.run(
            [*command, "-append", "console=ttyS0 panic=-1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=15,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return b"Unable to mount root" in done.stdout


class VirtualMachine:
    """A running machine."""

    def __init__(
        self, name: str, number: int, kind: Kind, image: Image, namespace: str, home: Path, shared: Path
    ) -> None:
        """Starts it, with its interfaces `p-NAME` and `m-NAME` in `namespace`; `booted` waits until it is of use.

        `home` takes its console; `shared` is a directory that it may write to, at the same path.
        """
        self.name = name
        self.number = number
        self.kind = kind
        self.namespace = namespace
        self.mac = f"0a:00:00:00:00:{number:02x}"
        self.port = f"p-{name}"
        self.prepared = ""
        """The command that its card was last given away or taken back with."""
        self.address = (f"{_MANAGEMENT}.{number}", _AGENT_PORT)
        home.mkdir(parents=True, exist_ok=True)
        # Persistent: the port on the switch outlives the machine, and what a capture has of it is not lost with it.
        for interface in (self.port, f"m-{name}"):
            if not self._has(interface):
                run(["ip", "-n", namespace, "tuntap", "add", interface, "mode", "tap"])
        console = home / f"{name}-console.log"
        command = self._command(image, shared)
        self.process = Process(command, log=console, namespace=namespace, stdout=subprocess.DEVNULL)
        there, interface = ["ip", "-n", namespace], f"m-{name}"
        run([*there, "address", "replace", f"{_MANAGEMENT}.1", "peer", self.address[0], "dev", interface])
        run([*there, "link", "set", interface, "up"])

    def _has(self, interface: str) -> bool:
        with contextlib.suppress(CommandFailed):
            run(["ip", "-n", self.namespace, "link", "show", interface])
            return True
        return False

    def _command(self, image: Image, shared: Path) -> list[str]:
        kind = self.kind
        management = f"0a:00:00:00:ff:{self.number:02x}"
        guest = Path(__file__).parent / "guest"
        words = [
            "console=ttyS0 panic=-1 nokaslr mitigations=off audit=0 no_timer_check tsc=reliable",
            "intel_iommu=on iommu=pt" if kind.iommu else "",
            f"vm.init={guest}/init vm.agent={guest}/agent.py vm.modules={image.modules} vm.shared={shared}",
            f"vm.name={self.name} vm.management={management},{self.address[0]}/24",
        ]
        machine, devices = "q35,usb=off,sata=off,smbus=off", []
        if kind.iommu:
            machine += ",kernel-irqchip=split" if kind.accelerator == "kvm" else ""
            devices += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        remapped = ",iommu_platform=on,disable-legacy=on" if kind.iommu and kind.nic == "virtio-net-pci" else ""
        exports = []
        for tag, path, readonly in (("root", Path("/"), "on"), ("shared", shared, "off")):
            exports += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap,readonly={readonly}"]
            exports += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        return [
            "qemu-system-x86_64",
            *("-machine", machine, "-accel", kind.accelerator),
            *("-cpu", "host" if kind.accelerator == "kvm" else _EMULATED_PROCESSOR),
            *("-smp", str(kind.processors), "-m", str(kind.memory_mib)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:/dev/stderr"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", " ".join(words)),
            *devices,
            # As on a physical wire: no unfinished checksum and no segment larger than the MTU.
            *("-netdev", f"tap,id=port,ifname={self.port},script=no,downscript=no,vnet_hdr=off"),
            *("-device", f"{kind.nic},netdev=port,mac={self.mac},addr=0x04{remapped}"),
            *("-netdev", f"tap,id=management,ifname=m-{self.name},script=no,downscript=no,vnet_hdr=off"),
            *("-device", f"virtio-net-pci,netdev=management,mac={management},addr=0x05"),
            *exports,
        ]

    def alive(self) -> bool:
        """Whether its qemu runs."""
        return self.process.alive()

    def booted(self, *, timeout: float = 120.0) -> None:
        """Waits until its agent answers."""
        begun = time.monotonic()

        def answers() -> bool:
            if not self.alive():
                raise RuntimeError(f"the machine {self.name} ended: {self.console()}")
            try:
                self.run(["true"], timeout=2)
            except OSError:
                return False
            return True

        try:
            wait_until(answers, f"the agent of {self.name}", timeout=timeout, every=0.1)
        except TimedOut as error:
            raise TimedOut(f"{error}; its console: {self.console()}") from None
        self.boot_seconds = time.monotonic() - begun

    def console(self) -> str:
        """The end of what its console shows."""
        return "\n".join(self.process.log_text().strip().splitlines()[-12:])

    def channel(self, *, timeout: float | None = 10.0, **request: Any) -> socket.socket:
        """Asks the agent for something, on a connection of its own."""
        with inside(self.namespace):
            connection = socket.socket()
        connection.settimeout(timeout)
        try:
            connection.connect(self.address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, *, timeout: float = 30.0, **request: Any) -> dict[str, Any]:
        """A request that is answered by a line."""
        return read_answer(self.name, self.channel(timeout=timeout, **request))

    def run(self, arguments: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0) -> str:
        """Runs a command inside, to its end; as `shell.run`."""
        done = self.ask(timeout=timeout, run=list(arguments), stdin=stdin)
        if done["status"] != 0:
            error = (done["stderr"] or done["stdout"]).strip()
            raise CommandFailed(f"{self.name}: `{' '.join(arguments)}` ended with {done['status']}: {error}")
        output: str = done["stdout"]
        return output

    def write(self, path: Path, text: str) -> None:
        """A file inside that only its owner reads."""
        self.ask(write=str(path), text=text)

    def kill(self) -> None:
        """The power is gone: qemu ends by SIGKILL."""
        self.process.kill()



def read_answer(name: str, connection: socket.socket) -> dict[str, Any]:
    """The agent's one line, and the end of the connection."""
    with connection, connection.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline() or b'{"error": "the agent has hung up"}')
    if "error" in answer:
        raise CommandFailed(f"{name}: {answer['error']}")
    return answer
