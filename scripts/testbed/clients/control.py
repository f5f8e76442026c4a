"""Starting the measuring client inside a namespace, and reading its results."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..member import VIP
from ..pace import pace
from ..shell import Process, TimedOut, wait_until

# Shorter than the second after which a kernel sends its SYN again.
_PATIENCE_MS = 900
_PACKAGE_HOME = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Connection:
    """What became of one connection. Times are monotonic nanoseconds, 0 for "never"."""

    index: int
    source: str
    port: int
    opened: int
    connected: int
    first_answer: int
    ended: int
    answers: int
    longest: int
    member: str
    error: str
    retransmits: int

    @property
    def tuple(self) -> tuple[str, int]:
        """The client's end."""
        return (self.source, self.port)


@dataclass(frozen=True)
class Results:
    """All connections of a client's run."""

    connections: list[Connection]

    def failed(self) -> list[Connection]:
        """Those that ended with an error."""
        return [connection for connection in self.connections if connection.error]

    def errors(self) -> dict[str, int]:
        """How often each error was."""
        return dict(Counter(connection.error for connection in self.failed()))

    def served(self) -> dict[str, int]:
        """Answers by member."""
        count: Counter[str] = Counter()
        for connection in self.connections:
            count[connection.member or "nobody"] += connection.answers
        return {name: answers for name, answers in sorted(count.items()) if answers}

    def longest_ms(self) -> float:
        """The longest wait for an answer, connecting included for a connection's first."""
        return max((connection.longest for connection in self.connections), default=0) / 1e6

    def retransmits(self) -> int:
        """Segments that had to be sent again, SYNs included."""
        return sum(connection.retransmits for connection in self.connections)


class Client:
    """A running measuring client."""

    def __init__(self, namespace: str, sources: list[str], log: Path, **options: int | str) -> None:
        """Starts it and returns when it runs. Options are engine.py's, with underscores."""
        arguments = [sys.executable, "-m", "testbed.clients.engine", "--sources", ",".join(sources)]
        options.setdefault("address", VIP)
        options.setdefault("timeout_ms", _PATIENCE_MS)
        for name, factor in (("every_us", pace.load), ("gap_ms", pace.load), ("timeout_ms", pace.patience)):
            if name in options:
                options[name] = round(int(options[name]) * factor)
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        self._process = Process(
            arguments,
            log=log,
            namespace=namespace,
            environment={"PYTHONPATH": str(_PACKAGE_HOME)},
            stdout=subprocess.PIPE,
        )
        self._pending = b""
        self._lines: list[dict[str, Any]] = []
        self.progress: dict[str, Any] = {}
        """The last progress line."""
        deadline = time.monotonic() + 10
        while not self._lines and self._read(deadline - time.monotonic()):
            pass
        if not self._lines:
            raise TimedOut(f"the client did not start: {self._process.log_text().strip()}")

    def _read(self, seconds: float) -> bool:
        """Reads what there is, waiting up to `seconds` for the first of it; False at the end or when nothing came."""
        descriptor = self._process.output.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            return False
        data = os.read(descriptor, 1 << 20)
        *complete, self._pending = (self._pending + data).split(b"\n")
        for line in complete:
            parsed = json.loads(line)
            self._lines.append(parsed)
            if "progress" in parsed:
                self.progress = parsed
        return bool(data)

    def poll(self) -> dict[str, Any]:
        """Takes in what has come and returns the last progress line."""
        while self._read(0):
            pass
        return self.progress

    def wait(self, *, timeout: float) -> Results:
        """Waits until it has done all it was told to do."""
        deadline = time.monotonic() + timeout
        while not self._lines or "connections" not in self._lines[-1]:
            left = deadline - time.monotonic()
            if left <= 0:
                self._process.kill()
                raise TimedOut(f"the client did not end within {timeout:g} s")
            if not self._read(left) and self._process.popen.poll() is not None and not self._read(0):
                raise RuntimeError(f"the client ended without results: {self._process.log_text().strip()}")
        self._process.popen.wait(timeout=10)
        return Results([Connection(**record) for record in self._lines[-1]["connections"]])

    def stop(self, *, timeout: float = 30.0) -> Results:
        """Ends it and returns its results."""
        self._process.popen.send_signal(signal.SIGTERM)
        return self.wait(timeout=timeout)


def long_connections(namespace: str, sources: list[str], log: Path, count: int, **options: int) -> Client:
    """So many connections that ask again and again until they are stopped; returns when each has been answered."""
    options = {"every_us": 2000, "gap_ms": 100, "timeout_ms": 5000, **options}
    client = Client(namespace, sources, log, opens=count, requests=0, progress_ms=100, **options)
    wait_until(lambda: client.poll().get("serving", 0) == count, f"{count} long connections", timeout=30)
    return client
