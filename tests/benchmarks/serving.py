"""Times `recalign serve`, and soaks it: 200 clients at once, half of whom talk nonsense.

    python tests/benchmarks/serving.py --model_dir runs/toyshop --item '#127' --rounds 50

Prints for 1, 8 and 64 clients, each of whom asks again once it is answered, how many are answered a
second and how long one waits. Then, round by round, how often each status came and the server's
resident memory, which should stop growing once everything is compiled.
"""

import argparse
import asyncio
import collections
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CLIENTS = 200
AT_ONCE = (1, 8, 64)
REQUESTS = 256  # of all clients together
clients = runpy.run_path(str(Path(__file__).parents[1] / "serving/clients.py"))


def resident_mib(pid: int) -> float:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


async def ask_again_and_again(port: int, content: bytes, clients_at_once: int) -> list[float]:
    """The seconds that each of `REQUESTS` requests took, of so many clients at once."""

    async def one() -> list[float]:
        taken = []
        for _ in range(REQUESTS // clients_at_once):
            begin = time.perf_counter()
            [status] = await clients["burst"](port, [content], 60.0)
            if status != 200:
                raise SystemExit(f"a request was answered with {status}")
            taken.append(time.perf_counter() - begin)
        return taken

    every = await asyncio.gather(*(one() for _ in range(clients_at_once)))
    return [seconds for each in every for seconds in each]


def main():
    """Starts a server, asks, and stops it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--item", required=True, help="an item of its catalogue")
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    command = [sys.executable, "-m", "recalign", "serve", "--model_dir", args.model_dir]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        port = int(address.rpartition(":")[2])
        rng = np.random.default_rng(0)
        right = clients["request"](b'{"history": ["%s"]}' % args.item.encode())
        for at_once in AT_ONCE:
            begin = time.perf_counter()
            taken = asyncio.run(ask_again_and_again(port, right, at_once))
            rate = len(taken) / (time.perf_counter() - begin)
            p50, p95 = (1000 * value for value in np.quantile(taken, (0.5, 0.95)))
            print(
                f"{at_once:2} clients: {rate:.1f} answers a second, {p50:.0f} ms in the middle, "
                f"95 % within {p95:.0f} ms",
                flush=True,
            )
        for number in range(1, args.rounds + 1):
            asked = [
                right if rng.random() < 0.5 else clients["nonsense"](rng) for _ in range(CLIENTS)
            ]
            statuses = asyncio.run(clients["burst"](port, asked, seconds=60.0))
            counts = dict(sorted(collections.Counter(map(str, statuses)).items()))
            memory = resident_mib(server.pid)
            print(f"{number:4}: {counts}, {memory:.0f} MiB", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
