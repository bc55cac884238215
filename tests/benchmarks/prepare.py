"""Times `recalign prepare` on generated data, and measures its peak resident memory.

    python tests/benchmarks/prepare.py --interactions 10000000 --items 1000000 --users 1000000

Every format holds the same events and items; "beam" is Parquet in parts, with --beam. Each
preparation runs in a process of its own, on two cores unless --cores says otherwise. Linux.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FORMATS = ("csv", "parquet", "recbole", "amazon2023", "beam")
PART_ROWS = 1 << 19
BLOCK = 1 << 18
WORDS = ("steel", "garden", "lamp", "kids", "blue", "travel", "set", "wooden", "mini", "classic")


def generate(folder: Path, interactions: int, items: int, users: int) -> None:
    """Writes the events and the items in every format."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    user = rng.integers(0, users, interactions)
    # Popularity falls off as in shops: a few items take many of the events.
    item = (items * rng.random(interactions) ** 2).astype(np.int64)
    events = pa.table(
        {
            "user_id": _names("U", user),
            "item_id": _names("B", item),
            "rating": rng.integers(1, 6, interactions).astype(np.float32),
            "timestamp": rng.integers(10**9, 2 * 10**9, interactions),
        }
    )
    words = [pa.array(np.array(WORDS)[rng.integers(0, len(WORDS), items)]) for _ in range(7)]
    titles = pc.binary_join_element_wise(*words, _names("", np.arange(items)), " ")
    catalogue = pa.table(
        {
            "item_id": _names("B", np.arange(items)),
            "title": titles,
            "brand": words[0],
            "categories": pc.binary_join_element_wise(words[1], words[2], " > "),
        }
    )
    pa.parquet.write_table(events, folder / "events.parquet")
    pa.parquet.write_table(catalogue, folder / "items.parquet")
    (folder / "parts.d").mkdir()
    for start in range(0, interactions, PART_ROWS):
        part = folder / "parts.d" / f"{start // PART_ROWS}.parquet"
        pa.parquet.write_table(events[start : start + PART_ROWS], part)
    for table, name in ((events, "events"), (catalogue, "items")):
        pa.csv.write_csv(table, folder / f"{name}.csv")
    _write_atomic(events, folder / "events.inter")
    _write_atomic(catalogue, folder / "events.item")
    fields = {"user_id": "user_id", "item_id": "parent_asin"}
    _write_lines(events, folder / "events.jsonl", fields)
    _write_lines(catalogue, folder / "items.jsonl", {"item_id": "parent_asin", "brand": "store"})


def _names(prefix, numbers):
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _write_atomic(table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv

    kinds = {"rating": "float", "timestamp": "float"}
    header = "\t".join(f"{name}:{kinds.get(name, 'token')}" for name in table.column_names)
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(header.encode() + b"\n")
        pa.csv.write_csv(table, file, options)


def _write_lines(table, path: Path, names: dict[str, str]) -> None:
    with path.open("w") as file:
        for batch in table.to_batches(max_chunksize=BLOCK):
            for row in batch.to_pylist():
                row = {names.get(key, key): value for key, value in row.items()}
                if "categories" in row:
                    row["categories"] = row["categories"].split(" > ")
                file.write(json.dumps(row) + "\n")


def command(kind: str, folder: Path) -> list[str]:
    """The arguments of `recalign` that prepare one of the formats."""
    names = {
        "csv": ("table", "--interactions", "events.csv", "--items", "items.csv"),
        "parquet": ("table", "--interactions", "events.parquet", "--items", "items.parquet"),
        "recbole": ("recbole", "--inter", "events.inter", "--item", "events.item"),
        "amazon2023": ("amazon2023", "--reviews", "events.jsonl", "--meta", "items.jsonl"),
        "beam": ("table", "--interactions", "parts.d", "--items", "items.parquet", "--beam"),
    }[kind]
    files = [str(folder / word) if "." in word else word for word in names]
    return ["prepare", *files, "--name", kind, "--data_dir", str(folder / "data"), "--overwrite"]


def measured(arguments: list[str], cores: set[int]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak GiB of `recalign` in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "recalign", *arguments],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"recalign {' '.join(arguments)} failed")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, cpu, usage.ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=FORMATS)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/prepare"))
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    source = args.folder / f"{args.interactions}-{args.items}-{args.users}"
    if args.generate:
        draft = source.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        generate(draft, args.interactions, args.items, args.users)
        draft.rename(source)
        return
    if not source.exists():
        # In a process of its own: what is measured would start with this one's peak memory.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--generate"], check=True)
    cores = set(sorted(os.sched_getaffinity(0))[: args.cores])
    print(f"{args.interactions:,} events, {args.users:,} users, {args.items:,} items, {cores=}")
    for kind in args.formats:
        load = os.getloadavg()[0]
        seconds, cpu, peak = measured(command(kind, source), cores)
        print(f"{kind:>10} {seconds:6.1f} s, {cpu:6.1f} CPU s, peak {peak:.2f} GiB ({load=:.1f})")


if __name__ == "__main__":
    main()
