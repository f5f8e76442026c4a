"""A member as the Debian package sets it up: installed on a clean root file system, run by systemd from its unit.

The root file system is debootstrap's, kept under target/; a container (systemd-nspawn) boots a copy of it inside the
member's namespace, with nothing of this machine but /dev/net/tun.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .member import REPOSITORY, Member
from .report import Skipped
from .shell import CommandFailed, Process, run, wait_until

_RELEASE = "bookworm"
_CONFIG = Path("etc/baton/baton.yaml")
_KEY = Path("etc/baton/baton.key")
# What baton's unit keeps of the capabilities must be there to be kept.
_CAPABILITIES = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_NICE,CAP_IPC_LOCK"


def newest_package() -> Path:
    """What `scripts/package` built."""
    built = sorted((REPOSITORY / "target" / "debian").glob("baton_*.deb"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise Skipped("no Debian package: run `scripts/package` first")
    return built[-1]


def _clean_root() -> Path:
    """A root file system with systemd and nothing else; made once."""
    root = REPOSITORY / "target" / "package-root" / _RELEASE
    if not (root / "made").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        include = "--include=systemd,systemd-sysv,dbus,procps"
        run(["debootstrap", "--variant=minbase", include, _RELEASE, str(root)], timeout=600)
        (root / "made").touch()
    return root


class UnitMember:
    """A member in a container of its own, in the place of one of the testbed's."""

    def __init__(self, member: Member, key: Path, home: Path) -> None:
        """Copies the root file system and installs the package there; it boots with `boot`."""
        self.member = member
        self.root = home / "root"
        self.process: Process | None = None
        self._log = home / "boot.log"
        self._run = member.socket.parent / "unit"
        self._run.mkdir()
        run(["cp", "-a", "--reflink=auto", str(_clean_root()), str(self.root)], timeout=300)
        self.install(newest_package())
        member.socket = Path("/run/baton/baton.sock")
        member.write_config(Path("/") / _KEY)
        shutil.copy(member.config, self.root / _CONFIG)
        shutil.copy(key, self.root / _KEY)
        (self.root / _KEY).chmod(0o600)
        member.socket = self._run / "baton.sock"

    def install(self, package: Path) -> str:
        """Installs a package file with what it depends on, as an administrator would; the other time, upgrades."""
        for settings in ("etc/apt/apt.conf.d", "etc/apt/sources.list.d", "etc/resolv.conf"):
            here = Path("/") / settings
            if here.is_dir():
                shutil.copytree(here, self.root / settings, dirs_exist_ok=True)
            elif here.exists():
                shutil.copy(here, self.root / settings)
        shutil.copy(package, self.root / "root" / "baton.deb")
        environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
        chroot = ["chroot", str(self.root), *environment]
        run([*chroot, "apt-get", "update", "-qq"], timeout=120)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "/root/baton.deb"]
        return run([*chroot, *install], timeout=300)

    def boot(self) -> None:
        """Boots the container and waits until the unit has started."""
        nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=read-only"]
        network = f"--network-namespace-path=/run/netns/{self.member.host.namespace}"
        shares = ["--bind=/dev/net/tun", f"--bind={self._run}:/run/baton", f"--capability={_CAPABILITIES}"]
        self.process = Process([*nspawn, network, *shares, "--boot", f"--directory={self.root}"], log=self._log)
        wait_until(lambda: self.state() == "active", "the unit to have started", timeout=60, every=0.1)

    def inside(self, *command: str, timeout: float = 60) -> str:
        """A command inside the container."""
        if self.process is None or not self.process.alive():
            raise RuntimeError(f"the container has ended: {self._log.read_text(errors='replace')[-2000:]}")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise CommandFailed("the container has no init yet")
        enter = ["nsenter", "--target", children[0], "--mount", "--uts", "--ipc", "--pid", "--net"]
        return run([*enter, *command], timeout=timeout)

    def state(self) -> str:
        """`systemctl is-active` of the unit."""
        try:
            return self.inside("systemctl", "is-active", "baton").strip()
        except CommandFailed as failed:
            return str(failed).rpartition(":")[2].strip()

    def property(self, name: str) -> str:
        """A property of the unit, as `systemctl show` has it."""
        return self.inside("systemctl", "show", "--value", "--property", name, "baton").strip()

    def journal(self) -> str:
        """What the unit has logged."""
        return self.inside("journalctl", "--unit", "baton", "--no-pager", "--output", "cat")

    def halt(self) -> None:
        """Shuts the container down."""
        if self.process is not None:
            self.process.stop(patience=30)
