"""Makes a member's control socket inside a machine one on this side: SOCKET ADDRESS PORT.

Whatever connects to SOCKET is connected through the machine's agent to the socket of the same path there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()


async def _relay(path: str, address: str, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(address, port)
            back.write(json.dumps({"connect": path}).encode() + b"\n")
            refused = b"error" in await there.readline()
        except OSError:
            refused = True
        if refused:
            writer.close()
            return
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], sys.argv[2], int(sys.argv[3])))
