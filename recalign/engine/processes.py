"""Several processes that train as one, under `jax.distributed`.

Every process runs the same program on the same input; devices take their part of each batch. What
is not a computation, files and messages, is the first process's business.
"""

import jax
from jax.experimental import multihost_utils

from recalign.errors import UserError


def join(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
) -> None:
    """Makes this process one of several; to be called before JAX touches a device.

    Args:
      coordinator_address: HOST:PORT of the first process. Without it JAX asks the environment,
        which a TPU slice, Slurm, Open MPI and Kubernetes answer.
      process_count: how many there are.
      process_index: which one this is, from 0.

    Raises:
      UserError: the others cannot be found.
    """
    try:
        jax.distributed.initialize(coordinator_address, process_count, process_index)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--multiprocess: {error}; where the environment does not tell, give "
            "--coordinator_address HOST:PORT, --process_count and --process_index"
        ) from error


def agree(number: int) -> int:
    """The number that the first process has, in every process; all must ask."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(number))


def is_first() -> bool:
    """Whether this process writes files and speaks to the user."""
    return jax.process_index() == 0
