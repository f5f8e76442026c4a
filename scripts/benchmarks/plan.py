"""What a benchmark's file says, checked: measure, systems, traffic, ports, rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .document import Value, read

MEASURES = ["throughput", "latency", "failover"]
TESTPMD_MODES = ["io", "mac", "macswap", "5tswap", "rxonly"]
WIRES = ["pcap", "null", "veth", "virtio-user"]
HOSTS = ["none", "ring", "veth"]
KINDS = ["established", "foreign", "syn", "arp"]
EVENTS = ["kill", "handover", "split"]
PEERS = ["baton", "keepalived", "ucarp", "xt_cluster"]


@dataclass(frozen=True)
class System:
    """What is measured. `kind` is `baton`, `testpmd`, … ; `settings` are the kind's own."""

    name: str
    kind: str
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Traffic:
    """Frames: either those of a capture, or generated."""

    capture: Path | None = None
    frames: int = 262_144
    mix: dict[str, float] = field(default_factory=lambda: {"foreign": 1.0})
    sizes: list[int] = field(default_factory=lambda: [60])

    def count(self, kind: str) -> int:
        """How many frames of this kind."""
        return round(self.frames * self.mix.get(kind, 0.0))


@dataclass(frozen=True)
class Plan:
    """A benchmark."""

    name: str
    title: str
    measure: str
    systems: list[System]
    baseline: str
    traffic: Traffic
    wire: str
    host: str
    rounds: int
    seconds: float
    huge_pages: int
    """So many are reserved while it is measured, and all systems use them; 0: none do."""
    rate: int
    """Latency: frames a second."""
    event: str
    """Failover: what happens, and how often in a round."""
    events: int
    least: dict[str, float]
    """What part of the baseline's figure a system must reach, by its name."""


_COMMON = ["title", "measure", "systems", "baseline", "rounds"]
_KEYS = {
    "throughput": [*_COMMON, "traffic", "ports", "seconds", "huge_pages", "expect"],
    "latency": [*_COMMON, "seconds", "rate", "sizes"],
    "failover": [*_COMMON, "event", "events"],
}


def load(file: Path) -> Plan:
    """Reads and checks a file; raises `Fault`."""
    document = read(file)
    top = document.entries()
    if "measure" not in top:
        raise document.fault("measure is missing", f"measure: one of {', '.join(MEASURES)}")
    measure = top["measure"].choice(MEASURES)
    top = document.entries(_KEYS[measure])
    if "systems" not in top:
        raise document.fault("systems is missing", "systems: a mapping of names to what is measured")
    readers = {"throughput": _forwarder, "latency": _forwarder, "failover": _cluster}
    systems = [readers[measure](name, entry) for name, entry in top["systems"].entries().items()]
    if not systems:
        raise top["systems"].fault("there is none", "at least one system")
    names = [system.name for system in systems]
    sizes = [size.integer(60, 1514) for size in top["sizes"].items()] if "sizes" in top else [100]
    traffic = _traffic(top["traffic"]) if "traffic" in top else Traffic(sizes=sizes)
    wire, host = _ports(top.get("ports"), measure)
    for system in systems:
        if system.kind == "kernel" and (wire, host) != ("veth", "veth"):
            place = top["systems"].entries()[system.name]
            raise place.fault("the kernel has no such port", "ports: {wire: veth, host: veth}")
    return Plan(
        name=file.stem,
        title=top["title"].text() if "title" in top else file.stem,
        measure=measure,
        systems=systems,
        baseline=top["baseline"].choice(names) if "baseline" in top else names[0],
        traffic=traffic,
        wire=wire,
        host=host,
        rounds=top["rounds"].integer(1, 1000) if "rounds" in top else 5,
        seconds=top["seconds"].seconds(0.5, 600) if "seconds" in top else 3.0,
        huge_pages=top["huge_pages"].integer(0, 1 << 20) if "huge_pages" in top else 0,
        rate=top["rate"].integer(1, 1_000_000) if "rate" in top else 10_000,
        event=top["event"].choice(EVENTS) if "event" in top else "kill",
        events=top["events"].integer(1, 100) if "events" in top else 5,
        least=_expect(top["expect"], names) if "expect" in top else {},
    )


def _one(name: str, entry: Value, kinds: list[str]) -> tuple[str, Value]:
    """A system is written `NAME: {KIND: its settings}`."""
    kind = entry.entries(kinds)
    if len(kind) != 1:
        raise entry.fault(f"{name} is {len(kind)} systems at once", f"exactly one of: {', '.join(kinds)}")
    return next(iter(kind.items()))


def _forwarder(name: str, entry: Value) -> System:
    """baton, testpmd, or the kernel's bridge: what moves frames from one port to another."""
    kind, value = _one(name, entry, ["baton", "testpmd", "kernel"])
    if kind == "kernel":
        return System(name, kind, {"way": value.choice(["bridge"])})
    if kind == "testpmd":
        return System(name, kind, {"mode": value.choice(TESTPMD_MODES)})
    settings = value.entries(["binary", "connections", "held", "role", "poll", "orphans"])
    read: dict[str, str | int | float | bool] = {}
    for key, most in (("connections", 1 << 28), ("held", 4_000_000)):
        if key in settings:
            read[key] = settings[key].integer(0 if key == "held" else 1, most)
    for key, words in (
        ("role", ["active", "passive"]),
        ("poll", ["busy", "adaptive"]),
    ):
        if key in settings:
            read[key] = settings[key].choice(words)
    if "orphans" in settings:
        read["orphans"] = settings["orphans"].flag()
    if "binary" in settings:
        read["binary"] = str(_file(settings["binary"], "a baton binary"))
    if read.get("held", 0) > read.get("connections", 1 << 20):
        raise settings["held"].fault("they do not fit the table", "no more than `connections`")
    return System(name, kind, read)


def _cluster(name: str, entry: Value) -> System:
    """A cluster that keeps a virtual IP served."""
    kind, value = _one(name, entry, PEERS)
    read: dict[str, str | int | float | bool] = {}
    if kind == "baton":
        settings = value.entries(["heartbeat", "actives", "hedge"])
        read["heartbeat"] = settings["heartbeat"].seconds(0.001, 10) if "heartbeat" in settings else 0.01
        read["actives"] = settings["actives"].integer(1, 3) if "actives" in settings else 1
        read["hedge"] = settings["hedge"].seconds(0, 1) if "hedge" in settings else 0.005
    elif kind in ("keepalived", "xt_cluster"):
        settings = value.entries(["advert"])
        read["advert"] = settings["advert"].seconds(0.01, 255) if "advert" in settings else 1.0
    else:
        settings = value.entries(["advert", "dead_ratio"])
        read["advert"] = settings["advert"].seconds(1, 255) if "advert" in settings else 1.0
        read["dead_ratio"] = settings["dead_ratio"].integer(1, 255) if "dead_ratio" in settings else 3
    return System(name, kind, read)


def _traffic(value: Value) -> Traffic:
    entries = value.entries(["capture", "frames", "mix", "sizes"])
    if "capture" in entries:
        if len(entries) > 1:
            raise value.fault("a capture has its own frames", "either capture, or frames, mix and sizes")
        return Traffic(capture=_file(entries["capture"], "a capture"))
    frames = entries["frames"].integer(1, 4_000_000) if "frames" in entries else 262_144
    mix = {"foreign": 1.0}
    if "mix" in entries:
        mix = {kind: share.share() for kind, share in entries["mix"].entries(KINDS).items()}
        if abs(sum(mix.values()) - 1) > 0.0001:
            raise entries["mix"].fault(f"the shares make {sum(mix.values()):.2%}", "shares that make 100%")
    sizes = [size.integer(60, 1514) for size in entries["sizes"].items()] if "sizes" in entries else [60]
    return Traffic(None, frames, mix, sizes)


def _file(value: Value, what: str) -> Path:
    path = Path(value.text("a path"))
    path = path if path.is_absolute() else value.file.parent / path
    if not path.is_file():
        raise value.fault(f"there is no file {path}", f"{what}, relative to this file")
    return path.resolve()


def _ports(value: Value | None, measure: str) -> tuple[str, str]:
    if value is None:
        return ("veth", "veth") if measure == "latency" else ("pcap", "none")
    entries = value.entries(["wire", "host"])
    wire = entries["wire"].choice(WIRES) if "wire" in entries else "pcap"
    host = entries["host"].choice(HOSTS) if "host" in entries else "none"
    return wire, host


def _expect(value: Value, names: list[str]) -> dict[str, float]:
    return {name: share.share() for name, share in value.entries(names).items()}
