"""Checkpoints with Orbax: train state, position in the input, and what they were made from.

A step's folder appears only once it is complete, with a `manifest.json` in it: the size and SHA-256
of every file, by which damage is noticed when it is read.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from recalign.engine import processes
from recalign.engine.network.config import check_shapes
from recalign.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Provenance = Mapping[str, str]
# Of a domain once the item table's bytes were hashed, and now all that it holds.
INCOMPARABLE = ("sha256", "content")
BESIDE_ARRAYS = 2**20  # bytes of a checkpoint that are not arrays: metadata, manifest, position

# Orbax logs what went wrong in its threads, traceback and all, before it raises it.
logging.getLogger("absl").addFilter(
    lambda record: not (record.exc_info and _is_full_disk(record.exc_info[1]))
)


class InputPositionHandler(ocp.CheckpointHandler):
    """Saves an iterator that has `save(path)` and `restore(path)`, as CLU's iterators have."""

    def save(self, directory: epath.Path, args: "InputPosition") -> None:
        """Writes the position, which is the same in every process."""
        if ocp.multihost.process_index() == 0:
            args.iterator.save(directory / "position")

    def restore(self, directory: epath.Path, args: "InputPosition") -> Any:
        """Moves the iterator to the saved position."""
        args.iterator.restore(directory / "position")
        return args.iterator


@ocp.args.register_with_handler(InputPositionHandler, for_save=True, for_restore=True)
class InputPosition(ocp.args.CheckpointArgs):
    """The iterator whose position is saved or restored."""

    def __init__(self, iterator: Any):
        self.iterator = iterator


class Checkpoints:
    """The checkpoints of a run.

    Args:
      directory: of the checkpoints.
      keep: how many of the newest stay; None for all.
      best_step: tells a step whose checkpoint stays too.
      provenance: what the parameters belong to ("vocabulary", "domain …") and its fingerprint,
        "KIND DIGEST"; a checkpoint of another provenance is refused.
      read_only: only looks, so that a run that is writing is not disturbed.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int | None = 2,
        best_step: Callable[[], int | None] = lambda: None,
        provenance: Provenance | None = None,
        read_only: bool = False,
    ):
        self.directory = epath.Path(directory).resolve()  # Orbax takes no relative path
        self._keep = keep
        self._best_step = best_step
        self._provenance = dict(provenance or {})
        self._read_only = read_only
        self._saving = None  # the step that is being written
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "input": InputPositionHandler(),
                "provenance": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
            ),
        )

    def save(self, step: int, state: Any, iterator: Any) -> None:
        """Saves the state and the iterator's position; returns while arrays are still written.

        Raises:
          UserError: the disk is full; earlier checkpoints are whole.
        """
        if step == self.latest_step():
            return
        with self._full_disk_is_told():
            self._manager.wait_until_finished()
            self._prune()
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                input=InputPosition(iterator),
                provenance=ocp.args.JsonSave(self._provenance),
            )
            self._saving = step
            self._check_room(state)
            self._manager.save(step, args=items)

    def _check_room(self, state: Any) -> None:
        """Raises before anything is written: TensorStore's threads print what they run into."""
        needed = sum(array.nbytes for array in jax.tree.leaves(state)) + BESIDE_ARRAYS
        if needed > shutil.disk_usage(self.directory).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))

    def restore(
        self, abstract_state: Any, iterator: Any | None = None, step: int | None = None
    ) -> Any:
        """The newest state that is whole, or that of a step, laid out as `abstract_state` asks.

        Damaged checkpoints are told of and, unless this only looks, renamed, so that the run can
        write these steps again.

        Args:
          abstract_state: shapes, dtypes and layouts.
          iterator: moved to the saved position if given.
          step: takes this one or none.

        Raises:
          UserError: there is none that is whole, or it holds other parameters, or ones of another
            vocabulary or domain; the first difference is named.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"{self.directory} holds no checkpoint")
        if step is not None:
            if step not in steps:
                raise UserError(f"{self.directory} holds no step {step}: there are {steps}")
            steps = [step]
        for step in steps:
            damage = self._damage(step)
            if damage is None:
                self._check_fits(step, abstract_state)
                try:
                    state = self._read(step, abstract_state, iterator)
                except Exception as error:  # whatever the readers of damaged files may raise
                    damage = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                else:
                    self._set_aside([s for s in steps if s > step])
                    return state
            log.warning(
                "the checkpoint at step %d is damaged, trying the one before: %s", step, damage
            )
        raise UserError(
            f"every checkpoint in {self.directory} is damaged (steps {steps}): copy them back from "
            "where they are whole, or remove the folder to start anew"
        )

    def _read(self, step: int, abstract_state: Any, iterator: Any | None) -> Any:
        items = {"state": ocp.args.StandardRestore(abstract_state)}
        if iterator is not None:
            items["input"] = InputPosition(iterator)
        return self._manager.restore(step, args=ocp.args.Composite(**items))["state"]

    def _check_fits(self, step: int, abstract_state: Any) -> None:
        """Raises a UserError that names the first difference."""
        where = f"the checkpoint at step {step} of {self.directory}"
        try:
            found = self._manager.item_metadata(step)["state"].tree["params"]
        except Exception:  # unreadable is damaged, which `restore` tells
            return
        check_shapes(_shapes(found), _shapes(abstract_state.params), where)
        file = self.directory / str(step) / "provenance" / "metadata"
        if not file.exists():
            return
        made_from = json.loads(file.read_text())
        for name in sorted(made_from.keys() & self._provenance.keys()):
            then, now = made_from[name], self._provenance[name]
            if (then.split()[0], now.split()[0]) == INCOMPARABLE:
                log.warning(
                    "%s was written by an earlier version, which took another fingerprint of its "
                    "%s: that it is the same one is not checked",
                    where,
                    name,
                )
            elif then != now:
                raise UserError(
                    f"{where} is of another {name}: {then}, where this run has {now}; name another "
                    "MODEL_DIR"
                )

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a step; None if they are as they were written."""
        folder = Path(self.directory / str(step))
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            return f"{MANIFEST}: {error}"
        for name, (size, digest) in manifest.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes where {size} were written"
            if _sha256(path) != digest:
                return f"{name} is not what was written"
        return None

    def _write_manifest(self) -> None:
        """Adds the manifest to the folder that Orbax is about to give its final name."""
        if not processes.is_first():
            return
        [folder] = Path(self.directory).glob(f"{self._saving}.orbax-checkpoint-tmp*")
        # Of the files at the top Orbax has yet to write some.
        files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
        manifest = {
            str(path.relative_to(folder)): (path.stat().st_size, _sha256(path)) for path in files
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))

    def _set_aside(self, damaged: list[int]) -> None:
        if not damaged or self._read_only:
            return
        _wait_for_others("damaged checkpoints are found")
        for step in damaged if processes.is_first() else ():
            (self.directory / str(step)).rename(self.directory / f"damaged_{step}")
        _wait_for_others("damaged checkpoints are set aside")
        self._manager.reload()

    def _prune(self) -> None:
        """Removes what is neither among the newest nor the best."""
        if self._keep is None:
            return
        steps = sorted(self._manager.all_steps())
        best = self._best_step()
        if jax.process_count() > 1:  # only the first process has written what tells the best
            best = int(multihost_utils.broadcast_one_to_all(-1 if best is None else best))
        for step in steps[: -self._keep]:
            if step != best:
                self._manager.delete(step)

    @contextlib.contextmanager
    def _full_disk_is_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_full_disk(error):
                raise
            raise UserError(
                f"{self.directory}: the disk is full, so the checkpoint at step {self._saving} "
                "could not be written; earlier ones are whole. Make room and call the same command "
                "again"
            ) from error

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: the disk is full.
        """
        with self._full_disk_is_told():
            self._manager.wait_until_finished()
            if not self._read_only:
                self._prune()
            self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wait_for_others(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
