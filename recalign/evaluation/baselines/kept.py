"""Fitted baselines beside their domain: what was fitted once to the same data is read.

A file a model, `DATA_DIR/NAME/baselines/<baseline>-<seed>-<hash>.npz`, in numpy's format and
without pickles. The hash is of what decides on the model: recalign's version, the domain's content,
the options, and the source of the baselines and of what they compute with (`SOURCES`). A file of
another hash makes room for the new one.
"""

import hashlib
import logging
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

import recalign
from recalign.domains import Domain
from recalign.domains.digest import digest
from recalign.files import in_bucket, replacing

log = logging.getLogger(__name__)

FOLDER = "baselines"
# Beside what lies in this folder: what of recalign a baseline computes with.
SOURCES = ("domains/domain.py", "domains/raw.py", "engine/training/losses.py")
_SECONDS = "seconds"


class Keepable(Protocol):
    """A model whose fit is told by some attributes: arrays, numbers, or trees of arrays."""

    FITTED: ClassVar[tuple[str, ...]]


Model = TypeVar("Model")


def fit_once(
    domain: Domain, name: str, seed: int, model: Model, fit: Callable[[Model], Model]
) -> tuple[Model, float]:
    """A fitted model: read if it is kept, else fitted, and kept if it is `Keepable`.

    Args:
      domain: what it is fitted to.
      name: of the baseline.
      seed: of the baseline.
      model: as it is made, not fitted yet.
      fit: fits it.

    Returns:
      The model, and how many seconds it took to fit.
    """
    path = _path(domain, name, seed, model) if hasattr(model, "FITTED") else None
    if path is not None and (seconds := _read(path, model)) is not None:
        log.info("%s: fitted before, in %.1f s; read from %s", name, seconds, path)
        return model, seconds
    begin = time.perf_counter()
    fit(model)
    seconds = time.perf_counter() - begin
    if hasattr(model, "FITTED"):  # the others only count
        log.info("%s: fitted in %.1f s", name, seconds)
    if path is not None:
        _write(path, model, seconds)
    return model, seconds


def content(domain: Domain) -> str:
    """The content hash of a domain, from its statistics where it was written."""
    return domain.statistics.get("fingerprint") or digest(domain)


def _path(domain: Domain, name: str, seed: int, model: object) -> Path | None:
    """Where a model is kept; None for a domain that is not on local disk."""
    if domain.path is None or in_bucket(domain.path):
        return None
    simple = (int, float, str, tuple, dict)
    options = {
        key: value
        for key, value in sorted(vars(model).items())
        if isinstance(value, simple) or hasattr(value, "__dataclass_fields__")
    }
    hashed = hashlib.sha256(repr((recalign.__version__, content(domain), name, seed)).encode())
    hashed.update(repr(options).encode())
    package = Path(recalign.__file__).parent
    beside = [package / source for source in SOURCES]
    for source in [*sorted(Path(__file__).parent.rglob("*.py")), *beside]:
        hashed.update(source.read_bytes())
    return Path(domain.path) / FOLDER / f"{name}-{seed}-{hashed.hexdigest()[:16]}.npz"


def _write(path: Path, model: Keepable, seconds: float) -> None:
    """Keeps a fit; where nothing can be written it is said, and the fit serves this once."""
    arrays = {_SECONDS: np.array(seconds)}
    for attribute in model.FITTED:
        arrays.update(_flat(attribute, getattr(model, attribute)))
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)
        name_and_seed = path.name.rpartition("-")[0]
        for older in path.parent.glob(f"{name_and_seed}-*.npz"):
            if older != path:
                older.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not kept: %s", path, error.strerror)


def _read(path: Path, model: Keepable) -> float | None:
    """Makes a model what it was when it was kept, and gives its seconds; None if it is not kept."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        tree = _nest(arrays)
        seconds = tree[_SECONDS]
        for attribute in model.FITTED:
            setattr(model, attribute, tree[attribute])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s) and is fitted again", path, error)
        return None
    return seconds


def _flat(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}/{key}", part)
    else:
        yield name, np.asarray(value)


def _nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = array.item() if array.ndim == 0 else array
    return tree
