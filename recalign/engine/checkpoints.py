"""Checkpoints with Orbax: train state and the position in the input, or parameters alone."""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from recalign.errors import UserError


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
    """The checkpoints of a run; a step's folder appears only once it is complete.

    Args:
      directory: of the checkpoints.
      keep: how many of the newest to keep.
    """

    def __init__(self, directory: epath.Path, keep: int | None = 2):
        self.directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, state: Any, iterator: Any) -> None:
        """Saves the state and the iterator's position; returns while arrays are still written."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), input=InputPosition(iterator)
        )
        if step != self.latest_step():
            self._manager.save(step, args=items)

    def restore(self, abstract_state: Any, iterator: Any | None = None) -> Any:
        """The newest state, laid out as `abstract_state` asks; moves the iterator if given.

        Raises:
          UserError: if there is none, or it holds other parameters.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self.directory} holds no checkpoint")
        items = {"state": ocp.args.StandardRestore(abstract_state)}
        if iterator is not None:
            items["input"] = InputPosition(iterator)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))["state"]
        except ValueError as error:
            raise UserError(
                f"the checkpoint at step {step} of {self.directory} does not fit this model: "
                f"{error}"
            ) from error

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()
