"""Single connections, held by the check itself: for what the measuring client has no words for."""

from __future__ import annotations

import socket

from ..member import VIP
from ..shell import inside


def unconnected(namespace: str, source: str, port: int = 0, **options: int) -> socket.socket:
    """A TCP socket in this namespace, bound; `options` are SO_SNDBUF and the like, which count from the SYN on."""
    with inside(namespace):
        handle = socket.socket()
    handle.settimeout(5)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for name, value in options.items():
        handle.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    handle.bind((source, port))
    return handle


def connect(namespace: str, source: str, port: int = 0, *, to: int = 80, **options: int) -> socket.socket:
    """A connection to the VIP from this address, and from this port if one is given."""
    handle = unconnected(namespace, source, port, **options)
    try:
        handle.connect((VIP, to))
    except OSError:
        handle.close()
        raise
    return handle


def request(what: str, *, close: bool = False) -> bytes:
    """A request that is answered with the member's name and `what`."""
    last = "Connection: close\r\n" if close else ""
    return f"GET /who?{what} HTTP/1.1\r\nHost: vip\r\n{last}\r\n".encode()


def ask(handle: socket.socket, what: str, *, close: bool = False) -> str:
    """One request; returns the name of the member that answered."""
    handle.sendall(request(what, close=close))
    received = b""
    while not received.endswith(f" {what}\n".encode()):
        data = handle.recv(4096)
        if not data:
            raise ConnectionError(f"the connection ended within the answer to {what}")
        received += data
    return received.partition(b"\r\n\r\n")[2].decode().split()[0]
