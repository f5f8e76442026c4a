"""A service that is slow to read, on a member: it takes what it is sent in small bites, after a while if asked to.

The first byte of a connection says how: `s`, a bite every now and then; `w`, nothing for the time of `--wait`. When the
client has closed its half, it is told how many bytes have arrived.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time

_BITE = 1024


def _serve(handle: socket.socket, wait: float) -> None:
    with handle:
        slow = handle.recv(1) == b"s"
        total = 1
        if not slow:
            time.sleep(wait)
        begun = time.monotonic()
        while data := handle.recv(_BITE):
            total += len(data)
            # Slow only for as long as the others wait: the rest is read as it comes.
            if slow and time.monotonic() < begun + wait:
                time.sleep(0.2)
        handle.sendall(f"{total}\n".encode())


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description="Reads slowly what clients send.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--wait", type=float, required=True)
    options = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by what it accepts: a small buffer is soon full, and then the window is zero.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind(("0.0.0.0", options.port))
    listener.listen(64)
    print("ready", flush=True)
    while True:
        handle, _ = listener.accept()
        threading.Thread(target=_serve, args=(handle, options.wait), daemon=True).start()


if __name__ == "__main__":
    main()
