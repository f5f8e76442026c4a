"""Runs inside a machine: does what the rehearsal asks for over the management card.

One request a connection, a line of JSON:

    {"run": [ARGUMENT…], "stdin": TEXT}         to its end; answers {"status": …, "stdout": …, "stderr": …}
    {"start": [ARGUMENT…], "log": PATH, …}      answers {"pid": …}, later {"ended": STATUS}; takes {"signal": NUMBER} lines
    {"connect": PATH or PORT}                   answers {}, then bytes go both ways, to a Unix socket or to a port
    {"write": PATH, "text": TEXT}               a file that only its owner reads; answers {}

What was started dies with its connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

PORT = 7
_OPEN_FILES = 1 << 17


def _answer(connection: socket.socket, **content: Any) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _run(connection: socket.socket, request: dict[str, Any]) -> None:
    done = subprocess.run(request["run"], input=request.get("stdin"), capture_output=True, text=True, check=False)
    _answer(connection, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def _start(connection: socket.socket, lines: IO[bytes], request: dict[str, Any]) -> None:
    environment = {**os.environ, **request.get("environment", {})}
    with Path(request["log"]).open("ab") as log:
        process = subprocess.Popen(
            request["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    _answer(connection, pid=process.pid)

    def tell() -> None:
        status = process.wait()
        with contextlib.suppress(OSError):
            _answer(connection, ended=status)

    teller = threading.Thread(target=tell)
    teller.start()
    for line in lines:
        process.send_signal(json.loads(line)["signal"])
    process.kill()
    teller.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _connect(connection: socket.socket, request: dict[str, Any]) -> None:
    target = request["connect"]
    with socket.socket(socket.AF_UNIX) if isinstance(target, str) else socket.socket() as other:
        other.connect(target if isinstance(target, str) else ("127.0.0.1", target))
        _answer(connection)
        back = threading.Thread(target=_pump, args=(other, connection))
        back.start()
        _pump(connection, other)
        back.join()


def _write(connection: socket.socket, request: dict[str, Any]) -> None:
    path = Path(request["write"])
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(request["text"])
    _answer(connection)


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Without a buffer that reads ahead: what follows the request may be bytes to pass on.
    with connection, connection.makefile("rb", buffering=0) as lines:
        try:
            request = json.loads(lines.readline())
            if "run" in request:
                _run(connection, request)
            elif "start" in request:
                _start(connection, lines, request)
            elif "connect" in request:
                _connect(connection, request)
            else:
                _write(connection, request)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                _answer(connection, error=f"{type(error).__name__}: {error}")


def main() -> None:
    """Serves until the machine ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    listener = socket.create_server(("", PORT), backlog=64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
