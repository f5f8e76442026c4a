"""What the machines boot: a distribution's kernel, and an initial file system that mounts this machine's own root.

The root is shared read-only, beneath a file system in the guest's memory: programs and libraries are the ones baton
was built with, nothing is installed a second time, and what a guest changes is gone with it. Only the kernel and its
modules are fetched (through apt, without installing them) and kept under target/vm.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.member import REPOSITORY
from testbed.report import Skipped
from testbed.shell import CommandFailed, run

CACHE = REPOSITORY / "target" / "vm"
_PACKAGE = "linux-image-amd64"
_INIT = Path(__file__).parent / "guest" / "initramfs"
_PROGRAMS = ("sh", "mount", "mkdir", "switch_root", "insmod")
# What it takes to reach the root: the bus, the file system that is shared over it, and the one on top.
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_XZ = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class Image:
    """Files that qemu boots, and where the guest finds its modules."""

    kernel: Path
    initramfs: Path
    modules: Path


def image() -> Image:
    """The image, made at the first call on a machine."""
    home = CACHE / "kernel"
    if not (home / "complete").exists():
        _fetch(home)
    version = next((home / "lib" / "modules").iterdir()).name
    initramfs = home / "initramfs"
    if not initramfs.exists() or initramfs.stat().st_mtime < _INIT.stat().st_mtime:
        initramfs.write_bytes(b"".join(_archive(_contents(home, version))))
    unpacked = home / "vmlinux"
    return Image(unpacked if unpacked.exists() else next(home.glob("boot/vmlinuz-*")), initramfs, home / "lib/modules")


def _fetch(home: Path) -> None:
    for tool in ("apt-get", "dpkg-deb", "depmod"):
        if shutil.which(tool) is None:
            raise Skipped(f"{tool} is not installed: it takes Debian and `scripts/install-dependencies --vms`")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    depends = run(["apt-cache", "depends", _PACKAGE])
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise Skipped(f"apt knows no kernel {_PACKAGE}")
    # apt-get leaves the file where it stands.
    fetch = 'cd "$1" && apt-get download -qq "$2" && dpkg-deb -x "$2"_*.deb . && rm "$2"_*.deb'
    run(["sh", "-c", fetch, "fetch", str(home), found[1]], timeout=300)
    version = next((home / "lib" / "modules").iterdir()).name
    run(["depmod", "-b", str(home), version], timeout=60)
    _unpack_kernel(home)
    (home / "complete").touch()


def _unpack_kernel(home: Path) -> None:
    """The kernel as the ELF file inside its own unpacker, which qemu boots directly: without hardware to run it, the
    unpacker alone takes longer than all the rest."""
    packed = next(home.glob("boot/vmlinuz-*")).read_bytes()
    begin = packed.find(_XZ)
    if begin < 0:
        return
    kernel = lzma.LZMADecompressor().decompress(packed[begin:])
    if kernel.startswith(b"\x7fELF"):
        (home / "vmlinux").write_bytes(kernel)


def _contents(home: Path, version: str) -> dict[str, bytes]:
    """Path and content of each file of the initial file system."""
    files = {"init": _INIT.read_bytes()}
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path is None:
            raise FileNotFoundError(f"{name} is not installed")
        files[f"bin/{name}"] = Path(path).read_bytes()
        for library in re.findall(r"(/\S+) \(0x", run(["ldd", path])):
            files[library.lstrip("/")] = Path(library).read_bytes()
    order: list[str] = []
    for module in _MODULES:
        try:
            lines = run(["modprobe", "-d", str(home), "-S", version, "--show-depends", module]).splitlines()
        except CommandFailed:
            continue  # Built into this kernel.
        for line in lines:
            if line.startswith("insmod ") and (path := line.split()[1]) not in order:
                order.append(path)
    for number, path in enumerate(order):
        files[f"modules/{number:02}-{Path(path).name}"] = Path(path).read_bytes()
    return files


def _archive(files: dict[str, bytes]) -> Iterator[bytes]:
    """As cpio in its "newc" format."""
    directories = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    directories |= {"dev", "proc", "root", "over"}
    for path in sorted(directories):
        yield _entry(path, stat.S_IFDIR | 0o755, b"")
    for path, content in files.items():
        yield _entry(path, stat.S_IFREG | 0o755, content)
    yield _entry("TRAILER!!!", 0, b"")


def _entry(path: str, mode: int, content: bytes) -> bytes:
    name = os.fsencode(path) + b"\0"
    # Inode, mode, owner, group, links, time, size, device twice, length of the name, checksum.
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers) + name
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
