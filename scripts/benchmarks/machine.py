"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from testbed.member import REPOSITORY, baton_binary


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def describe() -> dict[str, object]:
    """The machine and the versions, as the JSON has them."""
    memory = _read("/proc/meminfo")
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return {
        "cpu": _first(r"^model name\s*: (.*)$", _read("/proc/cpuinfo")),
        "cores": os.cpu_count(),
        "virtual": " hypervisor" in _read("/proc/cpuinfo"),
        "governor": governor or "unknown",
        "memory_mib": int(_first(r"^MemTotal:\s*(\d+)", memory) or 0) // 1024,
        "huge_pages_free": int(_first(r"^HugePages_Free:\s*(\d+)", memory) or 0),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "dpdk": _said("pkg-config", "--modversion", "libdpdk"),
        "baton": _said(str(baton_binary()), "--version"),
        "commit": _said("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"),
        "keepalived": _first(r"Keepalived v(\S+)", _said("keepalived", "--version")),
        "iptables": _said("iptables", "--version"),
        "ucarp": _first(r"^ucarp (\S+)", _said("dpkg-query", "-W", "-f", "ucarp ${Version}\n", "ucarp")),
    }


class Share:
    """How much of its core the busiest thread of a process has had since it was made.

    A worker that polls without pause should have all of it; what is missing was taken by something else on this
    machine, and a rate over wall time would be too low by that.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._before = self._ran()

    def _ran(self) -> dict[str, int]:
        found = {}
        for task in self._tasks.glob("*/schedstat"):
            ran = _read(str(task)).split()
            if ran:
                found[task.parent.name] = int(ran[0])
        return found

    def busiest(self) -> float:
        """Seconds that the busiest thread has run."""
        now = self._ran()
        return max((ran - self._before.get(task, 0) for task, ran in now.items()), default=0) / 1e9
