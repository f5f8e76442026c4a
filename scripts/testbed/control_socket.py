"""The control socket, spoken directly: what is asked for many times a second must not cost a process each."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from .member import VIP
from .shell import CommandFailed


class ControlSocket:
    """A connection to a running member; lines of JSON, as `src/control/protocol.rs` has them."""

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        """Connects."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> ControlSocket:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, **request: Any) -> Any:
        """A request and its first answer."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise ConnectionError("baton has closed its control socket")
        return json.loads(line)

    def activate(self, address: str = VIP) -> None:
        """A planned handover of a VIP to this member; returns when the role has moved."""
        answer = self.ask(request="activate", vip=address)
        if answer != "done":
            raise CommandFailed(f"activate: {answer}")

    def status(self) -> dict[str, Any]:
        """The member's view."""
        answer = self.ask(request="status")
        if "status" not in answer:
            raise CommandFailed(f"status: {answer}")
        status: dict[str, Any] = answer["status"]
        return status
