"""Checkpoints with Orbax: train state, position in the input, and what they were made from.

A step's folder appears, or in a bucket counts, only once it is complete, with a manifest of its
files in it, by which damage is noticed when it is read. Reading answers in three ways: what the
manifest condemns is passed over; what cannot be read although it is whole is raised as it is, for
it may be readable elsewhere; and a position that does not fit the input is told with what to do.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from recalign.engine import processes
from recalign.engine.network.config import check_shapes
from recalign.engine.weights import manifest, orbax
from recalign.errors import UserError
from recalign.files import filling, in_bucket, local_copy, resolve

log = logging.getLogger(__name__)

Provenance = Mapping[str, str]
# Of a domain once the item table's bytes were hashed, and now all that it holds.
INCOMPARABLE = ("sha256", "content")
BESIDE_ARRAYS = 2**20  # bytes of a checkpoint that are not arrays: metadata, manifest, position
STATE, INPUT, PROVENANCE = "state", "input", "provenance"  # the parts of a checkpoint


class InputPositionHandler(ocp.CheckpointHandler):
    """Saves an iterator that has `save(path)` and `restore(path)`, as CLU's iterators have."""

    def save(self, directory: epath.Path, args: "InputPosition") -> None:
        """Writes the position: each process the part of it that its iterator answers for."""
        with filling(directory) as folder:  # TensorFlow's writes its own to local disk
            args.iterator.save(folder / "position")

    def restore(self, directory: epath.Path, args: "InputPosition") -> Any:
        """Moves the iterator to the saved position."""
        with local_copy(directory) as folder:
            args.iterator.restore(folder / "position")
        return args.iterator


@ocp.args.register_with_handler(InputPositionHandler, for_save=True, for_restore=True)
class InputPosition(ocp.args.CheckpointArgs):
    """The iterator whose position is saved or restored."""

    def __init__(self, iterator: Any):
        self.iterator = iterator


class _Manager(ocp.CheckpointManager):
    """One that leaves it to the loop to ask whether processes are told to stop.

    They agree on a number that is asked for next, the same in all of them. Orbax asks with the step
    at each save, where the loop counts all places that it asks at: if the signal came amid a save,
    they would agree on a number that the loop had passed, and nobody would ever stop.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of a run.

    Args:
      directory: of the checkpoints.
      keep: how many of the newest stay; None for all.
      best_step: tells a step whose checkpoint stays too.
      provenance: what the parameters belong to ("vocabulary", "domain …") and its fingerprint,
        "KIND DIGEST"; a checkpoint of another provenance is refused.
      read_only: only looks, so that a run that is writing is not disturbed.
      check: called in the first process before a checkpoint is removed or written, and again before
        it counts; raises a UserError where the directory has become another process's.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int | None = 2,
        best_step: Callable[[], int | None] = lambda: None,
        provenance: Provenance | None = None,
        read_only: bool = False,
        check: Callable[[], None] = lambda: None,
    ):
        self.directory = resolve(directory)  # Orbax takes no relative path
        self._keep = keep
        self._best_step = best_step
        self._provenance = dict(provenance or {})
        self._check = check
        self._saving = None  # the step that is being written
        self._filter = _FullDiskFilter()
        self._manager = None if read_only else self._start_manager()

    def _start_manager(self) -> ocp.CheckpointManager:
        orbax.check_no_pattern(self.directory)
        logging.getLogger("absl").addFilter(self._filter)
        if processes.is_first():
            self._remove_unfinished()
        return _Manager(
            self.directory,
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                INPUT: InputPositionHandler(),
                PROVENANCE: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                create=not in_bucket(self.directory),  # a bucket would be made if there were none
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
            ),
        )

    def _remove_unfinished(self) -> None:
        """Removes what a process that was killed has left half written.

        Orbax would, in a thread of its own, which may still be at it when the same step of another
        `Checkpoints` is written into the same folder.
        """
        for unfinished in ocp.path.step.all_temporary_paths(self.directory):
            unfinished.get().rmtree()

    def save(self, step: int, state: Any, iterator: Any) -> None:
        """Saves the state and the iterator's position; returns while arrays are still written.

        Raises:
          UserError: the disk is full; earlier checkpoints are whole.
        """
        with self._explain_full_disk():
            self._manager.wait_until_finished()
            self._prune()
            items = ocp.args.Composite(
                **{
                    STATE: ocp.args.StandardSave(state),
                    INPUT: InputPosition(iterator),
                    PROVENANCE: ocp.args.JsonSave(self._provenance),
                }
            )
            self._saving = step
            processes.decide_once(lambda: self._check_before_save(state))
            self._manager.save(step, args=items)

    def _check_before_save(self, state: Any) -> None:
        """Raises before anything is written: TensorStore's threads print what they run into."""
        self._check()
        if in_bucket(self.directory):
            return
        needed = sum(array.nbytes for array in jax.tree.leaves(state)) + BESIDE_ARRAYS
        if needed > shutil.disk_usage(self.directory).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))

    def restore(
        self,
        abstract_state: Any,
        iterator: Any | None = None,
        step: int | None = None,
        accept_changes: bool = False,
    ) -> Any:
        """The newest state that is whole, or that of a step, laid out as `abstract_state` asks.

        Damaged checkpoints are told of and, unless this only looks, renamed, so that the run can
        write these steps again.

        Args:
          abstract_state: shapes, dtypes and layouts.
          iterator: moved to the saved position if given.
          step: takes this one or none.
          accept_changes: an iterator that the saved position does not fit starts anew.

        Raises:
          UserError: there is none that is whole, or it holds other parameters, or ones of another
            vocabulary or domain; the first difference is named. Or the position does not fit.
          Exception: it is whole, and yet cannot be read.
        """
        wanted = {"params": abstract_state.params, "opt_state": abstract_state.opt_state}
        step = self._choose(step, wanted)
        moved = iterator is not None and self._move(iterator, step, accept_changes)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            arguments = ocp.args.StandardRestore(abstract_state)
            state = reader.restore(self.directory / str(step) / STATE, args=arguments)
        log.info(
            "resumed at step %d: parameters, optimiser%s",
            step,
            " and position in the input" if moved else "; the input starts anew",
        )
        return state

    def restore_params(self, abstract_params: Any, step: int | None = None) -> tuple[int, Any]:
        """The parameters of the newest checkpoint that is whole, or of a step, and its number.

        Nothing is read of the input, and of the optimiser's state only what the manifest hashes:
        OCDBT puts its arrays and the parameters into the same files. Hashes of the parameters' own
        bytes would cost every save more than they spare here.

        Raises:
          UserError, Exception: see `restore`.
        """
        wanted = {"params": abstract_params}
        step = self._choose(step, wanted, (STATE, PROVENANCE))
        arguments = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                found = reader.restore(self.directory / str(step) / STATE, args=arguments)
        except Exception as error:
            if (self.directory / str(step)).exists():
                raise
            raise UserError(
                f"the checkpoint at step {step} of {self.directory} was removed while it was read: "
                "training goes on there; call again"
            ) from error
        return step, found["params"]

    def _choose(
        self, step: int | None, wanted: Mapping[str, Any], parts: tuple[str, ...] = ()
    ) -> int:
        """The step to read: this one, or the newest that is whole; the first process decides.

        Args:
          step: see `restore`.
          wanted: fields of the state that the checkpoint must fit.
          parts: what will be read of it; all if empty.
        """

        def decide() -> int:
            steps = self._steps()
            if not steps:
                raise UserError(f"{self.directory} holds no checkpoint")
            if step is not None and step not in steps:
                raise UserError(f"{self.directory} holds no step {step}: there are {steps}")
            damaged: list[int] = []
            for candidate in steps if step is None else [step]:
                damage = manifest.find_damage(self.directory / str(candidate), parts)
                if damage is not None and not (self.directory / str(candidate)).exists():
                    return decide()  # a training that goes on here has removed it
                if damage is None:
                    self._check_fits(candidate, wanted)
                    self._set_aside(damaged)
                    return candidate
                if step is not None:
                    raise UserError(
                        f"the checkpoint at step {step} of {self.directory} is damaged ({damage}): "
                        f"choose another of {steps}"
                    )
                log.warning(
                    "the checkpoint at step %d is damaged, trying the one before: %s",
                    candidate,
                    damage,
                )
                damaged.append(candidate)
            raise UserError(
                f"every checkpoint in {self.directory} is damaged (steps {steps}): copy them back "
                "from where they are whole, or remove the folder to start anew"
            )

        chosen = processes.decide_once(decide)
        if self._manager:
            self._manager.reload()
        return chosen

    def _steps(self) -> list[int]:
        """The complete checkpoints as the folder has them, the newest first."""
        return manifest.list_steps(self.directory)[::-1]

    def _set_aside(self, damaged: list[int]) -> None:
        for step in damaged if self._manager else ():
            name, again = f"damaged_{step}", itertools.count(2)
            while (self.directory / name).exists():  # it was written anew, and is damaged again
                name = f"damaged_{step}_{next(again)}"
            (self.directory / str(step)).rename(self.directory / name)

    def _move(self, iterator: Any, step: int, accept_changes: bool) -> bool:
        """Moves an iterator to its saved position, or has it start anew; tells which."""
        what = None
        try:
            folder = self.directory / str(step) / INPUT
            InputPositionHandler().restore(folder, InputPosition(iterator))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever an input raises to which the position is none
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise  # the disk's fault
            what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        if processes.agree(what is None):
            return True
        said = f"the input's position at step {step} of {self.directory} does not fit the input"
        why = f" ({what})" if what else ""
        if not accept_changes:
            raise UserError(
                f"{said}{why}: was it saved with another mixture, PACK, BATCH_SIZE, "
                "INPUT_STREAMS, TASK_FEATURE_LENGTHS or TensorFlow? Go on with those, or call "
                "again with --accept_changes: the parameters and the optimiser go on, the input "
                "starts anew"
            )
        iterator.reset()
        log.warning("%s%s", said, why)
        return False

    def _check_fits(self, step: int, wanted: Mapping[str, Any]) -> None:
        """Raises a UserError that names the first difference."""
        where = f"the checkpoint at step {step} of {self.directory}"
        folder = self.directory / str(step)
        found = ocp.PyTreeCheckpointHandler().metadata(folder / STATE).tree
        for name, tree in wanted.items():
            part = where if name == "params" else f"{name} of {where}"
            check_shapes(_shapes(found.get(name, {})), _shapes(tree), part)
        made_from = read_provenance(folder)
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
                    f"{where} is of another {name}: {then}, where this run has {now}; prepare it "
                    "as it was, or train in another MODEL_DIR"
                )

    def _write_manifest(self) -> None:
        """Adds the manifest to the folder that Orbax is about to give its final name, or commit."""
        if processes.is_first():
            self._check()  # whoever has the directory now may have removed some of the files
            folder = self.directory / str(self._saving)
            if not in_bucket(folder):
                [folder] = self.directory.glob(f"{folder.name}.orbax-checkpoint-tmp*")
            manifest.write_manifest(folder)

    def _prune(self) -> None:
        """Removes what is neither among the newest nor the best."""
        if self._keep is None:
            return
        for step in processes.decide_once(self._superfluous):
            if in_bucket(self.directory) and processes.is_first():
                # First of all: what is left of it if this is cut off is no checkpoint.
                (self.directory / str(step) / manifest.COMMITTED).unlink()
            self._manager.delete(step)

    def _superfluous(self) -> list[int]:
        self._check()
        best = self._best_step()
        return [step for step in self._steps()[self._keep :] if step != best]

    @contextlib.contextmanager
    def _explain_full_disk(self) -> Iterator[None]:
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
        return processes.decide_once(lambda: next(iter(self._steps()), None))

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: the disk is full.
        """
        if not self._manager:
            return
        with self._explain_full_disk():
            self._manager.wait_until_finished()
            self._prune()
            self._manager.close()
        logging.getLogger("absl").removeFilter(self._filter)


def read_provenance(checkpoint: epath.Path) -> Provenance:
    """What the parameters of a checkpoint, the folder of a step, belong to; empty if not told."""
    file = checkpoint / PROVENANCE / "metadata"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


class _FullDiskFilter(logging.Filter):
    """Orbax logs what went wrong in its threads, traceback and all, before it raises it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and _is_full_disk(record.exc_info[1]))


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
