"""Runs inside a machine: what sends and receives in bulk, from and to memory. The machine's files are another's.

Serves one connection after the other on a port. A client's first byte says which way: `d` gets so many MB sent, `u` is
received from until it has shut down, and told how many bytes came.

    python3 bulk.py PORT MEGABYTES
"""

from __future__ import annotations

import socket
import sys

_CHUNK = bytes(range(256)) * 4096


def _serve(connection: socket.socket, megabytes: int) -> None:
    if connection.recv(1) == b"d":
        for _ in range(megabytes):
            connection.sendall(_CHUNK)
        return
    into, count = bytearray(len(_CHUNK)), 0
    while some := connection.recv_into(into):
        count += some
    connection.sendall(f"{count}\n".encode())


def main() -> None:
    """Serves until it is killed."""
    listener = socket.create_server(("", int(sys.argv[1])))
    while True:
        connection, _ = listener.accept()
        with connection:
            _serve(connection, int(sys.argv[2]))


if __name__ == "__main__":
    main()
