"""Many clients at once, some of whom talk nonsense; also for tests/benchmarks/serving.py."""

import asyncio

import numpy as np


def request(body: bytes, head: bytes = b"Content-Type: application/json\r\n") -> bytes:
    length = f"Content-Length: {len(body)}\r\n".encode()
    start = b"POST /api/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    return start + head + length + b"\r\n" + body


async def burst(port, requests, seconds=20.0):
    """The status of each response, all asked at once; None where there was none."""

    async def one(content):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(content)
            await writer.drain()
            line = await asyncio.wait_for(reader.readline(), seconds)
            await asyncio.wait_for(reader.read(), seconds)
            return int(line.split()[1]) if line else None
        except (ConnectionError, TimeoutError):
            return None
        finally:
            writer.close()

    return await asyncio.gather(*map(one, requests))


def nonsense(rng: np.random.Generator) -> bytes:
    """A request that is not one, or not a right one."""
    kinds = [
        lambda: rng.bytes(200) + b"\r\n\r\n",
        lambda: b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        lambda: (
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ),
        lambda: request(rng.bytes(100)),
        lambda: request(b'{"history": ' + b"[" * 1000),
        lambda: request(b"{}", b"Content-Type: application/json\r\nTransfer-Encoding: x\r\n"),
        lambda: request(b'{"history": ["toy-1"], "k": -1}'),
        lambda: request(b"x" * 200_000),
    ]
    return kinds[rng.integers(len(kinds))]()
