"""A proxy that passes CONNECT on and nothing else: python connect_proxy.py ADDRESS. Prints its port, then each target."""

import asyncio
import contextlib
import sys


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _carry(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    try:
        method, target, *_ = (await near.readuntil(b"\r\n\r\n")).decode().split()
    except asyncio.IncompleteReadError:  # somebody only knocked
        back.close()
        return
    print(target, flush=True)  # noqa: T201 - what the test reads
    if method != "CONNECT":
        back.close()
        return
    host, _, port = target.rpartition(":")
    far, forth = await asyncio.open_connection(host, int(port))
    back.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.gather(_pump(near, forth), _pump(far, back))


async def _main(address: str) -> None:
    server = await asyncio.start_server(_carry, address, 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - what the test reads
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
