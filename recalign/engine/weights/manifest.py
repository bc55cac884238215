"""What the files of a checkpoint were when it was written: `manifest.json`, sizes and SHA-256.

It is written before the folder gets its final name, so that a folder without it has lost it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from etils import epath

MANIFEST = "manifest.json"
_BLOCK = 2**22  # bytes read at a time


def write_manifest(folder: Path) -> None:
    """Records the files in the subfolders of `folder`; at the top Orbax has yet to write some."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    manifest = {
        str(path.relative_to(folder)): (path.stat().st_size, _sha256(path)) for path in files
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def find_damage(folder: epath.Path, parts: Sequence[str] = (), hashes: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are as they were written.

    Args:
      folder: of the checkpoint.
      parts: the subfolders that are to be read; all if empty.
      hashes: compares contents too, which reads all of them; else sizes alone.

    Raises:
      OSError: they cannot be read, which says nothing of whether they are whole.
    """
    try:
        recorded = json.loads((folder / MANIFEST).read_text())
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
        if path.stat().length != size:
            return f"{name} has {path.stat().length} bytes where {size} were written"
        if hashes and _sha256(path) != digest:
            return f"{name} is not what was written"
    return None


def _sha256(path: Path | epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
