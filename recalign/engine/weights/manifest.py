"""What the files of a folder were when it was written: `manifest.json`, sizes and hashes.

A checkpoint's is written before the folder gets its final name, so that one without it has lost
it. In a bucket, which renames no folder, Orbax writes `commit_success.txt` after it, and a folder
without that one is no checkpoint yet. The hashes are SHA-256; those of a bucket are MD5, which it
knows by itself: to write them, or to compare them there, nothing is read back.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from recalign.files import hash_file, in_bucket, list_files, write_text

MANIFEST = "manifest.json"
COMMITTED = "commit_success.txt"
_UNNAMED = "sha256"  # the hash that stands in a manifest without its name


def list_steps(directory: Path | epath.Path) -> list[int]:
    """The steps that a directory holds complete checkpoints of, whole or damaged, ascending."""
    if in_bucket(directory):
        files = [name.split("/") for name in list_files(directory)]
        names = {name for name, *rest in files if rest == [COMMITTED]}
    else:
        names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    return sorted(int(name) for name in names if name.isdecimal())


def write_manifest(folder: Path, also: Sequence[str] = ()) -> None:
    """Records the files in the subfolders of `folder`, and `also` these at its top.

    There Orbax has yet to write some of a checkpoint's.
    """
    kind, name_of_kind = ("md5", "md5 ") if in_bucket(folder) else (_UNNAMED, "")
    manifest = {
        name: (size, name_of_kind + hash_file(folder / name, kind))
        for name, size in list_files(folder).items()
        if "/" in name or name in also
    }
    write_text(folder / MANIFEST, json.dumps(manifest))


def find_damage(folder: epath.Path, parts: Sequence[str] = (), hashes: bool = True) -> str | None:
    """What is wrong with the files of a folder; None if they are as they were written.

    Args:
      folder: of a checkpoint, or whatever else has a manifest.
      parts: what of it is to be read, subfolders and files at its top; all if empty.
      hashes: compares contents too, which on local disk reads all of them; else sizes alone.

    Raises:
      OSError: they cannot be read, which says nothing of whether they are whole.
    """
    try:
        recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = {
            str(name): (int(size), str(digest)) for name, (size, digest) in recorded.items()
        }
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {error}"
    for name, (size, digest) in manifest.items():
        if parts and name.partition("/")[0] not in parts:
            continue
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        try:
            if path.stat().length != size:
                return f"{name} has {path.stat().length} bytes where {size} were written"
            kind, _, digits = digest.rpartition(" ")
            if hashes and hash_file(path, kind or _UNNAMED) != digits:
                return f"{name} is not what was written"
        except FileNotFoundError:  # since then
            return f"{name} is missing"
    return None
