"""The measuring client: many real TCP connections from one epoll loop, each one's fate recorded.

It runs as a process of its own inside the client's namespace (`start_client` starts it there) and writes JSON lines:
`{"ready": true}` first, a `progress` line now and then if asked to, and at its end one line with every connection.
SIGTERM ends it: nothing new is opened, requests under way are finished.

A connection sends `GET /who?TOKEN` again and again and compares each answer byte by byte with the member's name (which
must never change within a connection) and its token. Nothing is retried: a reset, an early end, a wrong byte or
silence beyond the time limit ends the connection with that reason.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import heapq
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_TCP_INFO_LENGTH = 104
_TOTAL_RETRANSMITS_OFFSET = 100
_LINGER_ZERO = struct.pack("ii", 1, 0)
_MILLISECOND = 1_000_000


@dataclass(slots=True)
class Connection:
    """One connection and its record. Times are monotonic nanoseconds."""

    index: int
    source: str
    port: int
    opened: int
    socket: socket.socket
    connected: int = 0
    first_answer: int = 0
    ended: int = 0
    answers: int = 0
    longest: int = 0
    member: str = ""
    error: str = ""
    retransmits: int = 0
    asked: int = 0
    """When the request under way was sent; 0 if none is."""
    received: bytes = b""
    deadline: int = 0

    def record(self) -> dict[str, object]:
        """As it is reported."""
        names = ("index", "source", "port", "opened", "connected", "first_answer", "ended", "answers", "longest")
        return {name: getattr(self, name) for name in (*names, "member", "error", "retransmits")}


@dataclass
class Engine:
    """The loop. `options` are the command line's."""

    options: argparse.Namespace
    epoll: select.epoll = field(default_factory=select.epoll)
    live: dict[int, Connection] = field(default_factory=dict)
    done: list[Connection] = field(default_factory=list)
    timers: list[tuple[int, int, Callable[[int], None]]] = field(default_factory=list)
    opened: int = 0
    stop_requested: bool = False
    """Set by the signal; the loop acts on it at a moment of its own."""
    stopping: bool = False
    served: dict[str, int] = field(default_factory=dict)
    longest_since_progress: int = 0
    failed: int = 0
    _first: int = 0
    _timer_count: int = 0

    def at(self, due: int, action: Callable[[int], None]) -> None:
        """Calls `action(now)` at a monotonic time in nanoseconds, or as soon as possible after it."""
        self._timer_count += 1
        heapq.heappush(self.timers, (due, self._timer_count, action))

    def run(self) -> None:
        """Runs until all that was to be opened has ended, or SIGTERM and the answers under way."""
        now = time.monotonic_ns()
        self.at(now, self._open_due)
        if self.options.progress_ms:
            self.at(now, self._progress)
        while not self._finished():
            if self.stop_requested and not self.stopping:
                self._stop()
            wait = max(0.0, (self.timers[0][0] - time.monotonic_ns()) / 1e9) if self.timers else 0.1
            for descriptor, _ in self.epoll.poll(min(wait, 0.1)):
                connection = self.live.get(descriptor)
                if connection is not None:
                    self._on_event(connection)
            now = time.monotonic_ns()
            while self.timers and self.timers[0][0] <= now:
                heapq.heappop(self.timers)[2](now)
        if self.options.progress_ms:
            self._progress(time.monotonic_ns())

    def _finished(self) -> bool:
        all_opened = self.stopping or (self.options.opens and self.opened >= self.options.opens)
        return bool(all_opened) and not self.live

    def request_stop(self) -> None:
        """No more connections, no more requests; what is under way is finished."""
        self.stop_requested = True

    def _stop(self) -> None:
        self.stopping = True
        for connection in list(self.live.values()):
            if connection.connected and not connection.asked:
                self._end(connection, "")

    def _open_due(self, now: int) -> None:
        if self.stopping or (self.options.opens and self.opened >= self.options.opens):
            return
        # By the schedule, not by the last opening: a late loop does not lower the rate.
        if self.opened == 0:
            self._first = now
        self._open(now)
        self.at(self._first + self.opened * self.options.every_us * 1000, self._open_due)

    def _open(self, now: int) -> None:
        source = self.options.sources[self.opened % len(self.options.sources)]
        self.opened += 1
        handle = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The port is chosen at connect, by the whole tuple.
        handle.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        handle.bind((source, 0))
        connection = Connection(self.opened - 1, source, 0, now, handle)
        result = handle.connect_ex((self.options.address, self.options.port))
        connection.port = handle.getsockname()[1]
        self.live[handle.fileno()] = connection
        self.epoll.register(handle.fileno(), select.EPOLLOUT)
        if result not in (0, errno.EINPROGRESS):
            self._end(connection, f"connect: {errno.errorcode.get(result, result)}")
            return
        self._expect_until(connection, now + self.options.timeout_ms * _MILLISECOND, "no connection")

    def _expect_until(self, connection: Connection, deadline: int, what: str) -> None:
        connection.deadline = deadline

        def check(_: int) -> None:
            if connection.deadline == deadline and not connection.ended:
                self._end(connection, f"timeout: {what}")

        self.at(deadline, check)

    def _on_event(self, connection: Connection) -> None:
        if not connection.connected:
            error = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._end(connection, f"connect: {errno.errorcode.get(error, error)}")
                return
            connection.connected = time.monotonic_ns()
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN)
            self._ask(connection, connection.connected)
            return
        try:
            data = connection.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(connection, f"receive: {errno.errorcode.get(error.errno or 0, error)}")
            return
        if not data:
            complete = self.options.close == "server" and self._last(connection) and not connection.asked
            self._end(connection, "" if complete else "ended early")
            return
        connection.received += data
        self._on_answer(connection)

    def _last(self, connection: Connection) -> bool:
        return bool(self.options.requests) and connection.answers >= self.options.requests

    def _ask(self, connection: Connection, now: int) -> None:
        if connection.ended:
            return
        last = bool(self.options.requests) and connection.answers + 1 >= self.options.requests
        close = "Connection: close\r\n" if last and self.options.close == "server" else ""
        request = f"GET /who?{self._token(connection)} HTTP/1.1\r\nHost: vip\r\n{close}\r\n"
        connection.asked = now
        connection.received = b""
        try:
            connection.socket.send(request.encode())
        except OSError as error:
            self._end(connection, f"send: {errno.errorcode.get(error.errno or 0, error)}")
            return
        self._expect_until(connection, now + self.options.timeout_ms * _MILLISECOND, "no answer")

    def _token(self, connection: Connection) -> str:
        return f"{connection.port}-{connection.index}-{connection.answers}"

    def _on_answer(self, connection: Connection) -> None:
        head, end, body = connection.received.partition(b"\r\n\r\n")
        if not end:
            return
        length = next((line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b"")
        if not head.startswith(b"HTTP/1.1 200 ") or not length.strip().isdigit():
            self._end(connection, f"wrong answer: {head[:60]!r}")
            return
        if len(body) < int(length):
            return
        member, _, token = body.decode(errors="replace").rstrip("\n").partition(" ")
        if token != self._token(connection) or member != (connection.member or member):
            self._end(connection, f"wrong content: {body[:60]!r} on a connection to {connection.member!r}")
            return
        now = time.monotonic_ns()
        waited = now - (connection.asked if connection.answers else connection.opened)
        connection.member = member
        connection.first_answer = connection.first_answer or now
        connection.longest = max(connection.longest, waited)
        self.longest_since_progress = max(self.longest_since_progress, waited)
        connection.answers += 1
        connection.asked = 0
        connection.deadline = 0
        self.served[member] = self.served.get(member, 0) + 1
        if self._last(connection):
            if self.options.close == "server":
                self._expect_until(connection, now + self.options.timeout_ms * _MILLISECOND, "no end")
            else:
                self._end(connection, "")
        elif self.stopping:
            self._end(connection, "")
        else:
            self.at(now + self.options.gap_ms * _MILLISECOND, lambda due: self._ask(connection, time.monotonic_ns()))

    def _end(self, connection: Connection, error: str) -> None:
        connection.error = error
        connection.ended = time.monotonic_ns()
        self.failed += 1 if error else 0
        handle = connection.socket
        with contextlib.suppress(OSError):
            information = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
            (connection.retransmits,) = struct.unpack_from("=I", information, _TOTAL_RETRANSMITS_OFFSET)
        del self.live[handle.fileno()]
        if self.options.close == "reset":
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        handle.close()
        self.done.append(connection)

    def _progress(self, now: int) -> None:
        waiting = [now - (c.asked or c.opened) for c in self.live.values() if c.asked or not c.connected]
        line = {
            "progress": now,
            "opened": self.opened,
            "failed": self.failed,
            "served": self.served,
            "open": len(self.live),
            "serving": sum(1 for connection in self.live.values() if connection.answers),
            "longest_ms": max([self.longest_since_progress, *waiting]) / 1e6,
        }
        self.longest_since_progress = 0
        print(json.dumps(line), flush=True)
        self.at(now + self.options.progress_ms * _MILLISECOND, self._progress)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Opens TCP connections, sends requests, records each one's fate.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--sources", required=True, type=lambda text: text.split(","))
    parser.add_argument("--opens", type=int, default=0, help="connections in all; 0: until SIGTERM")
    parser.add_argument("--every-us", type=int, default=2000, help="microseconds between two openings")
    parser.add_argument("--requests", type=int, default=1, help="per connection; 0: until SIGTERM")
    parser.add_argument("--gap-ms", type=int, default=20, help="between an answer and the next request")
    parser.add_argument("--timeout-ms", type=int, default=900, help="for a connection, and for each answer")
    parser.add_argument("--close", choices=["server", "client", "reset"], default="server", help="who closes, and how")
    parser.add_argument("--progress-ms", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """The process."""
    engine = Engine(_options())
    signal.signal(signal.SIGTERM, lambda *_: engine.request_stop())
    print(json.dumps({"ready": True}), flush=True)
    engine.run()
    json.dump({"connections": [connection.record() for connection in engine.done]}, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
