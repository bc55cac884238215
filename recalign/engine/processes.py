"""Several processes that train as one, under `jax.distributed`.

Every process runs the same program. Of each batch to train on it makes the rows that its devices
take, and its part of the input's position is its own to write; of the examples that are evaluated
it makes its share. What else is not a computation, files and messages, is the first process's
business.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from recalign.engine import preemption
from recalign.errors import ProcessLostError, UserError

# What transports and JAX's coordination service say of a process that is gone.
_SIGNS_OF_LOSS = (
    "Gloo",
    "NCCL",
    "Connection reset by peer",
    "Connection closed by peer",
    "heartbeat",
    "coordination service",
    "CoordinationService",
)
PATIENCE = 24 * 60 * 60 * 1000  # milliseconds that processes wait for each other
PIECE = 1 << 26  # bytes of each process that are exchanged at once: devices hold those of all
_numbers = itertools.count()  # of meetings: the same in every process


def describe_devices() -> str:
    """How many devices all processes have, and of which kind."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


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
      Preempted: they cannot, and this process was told to stop meanwhile.
    """
    with preemption.defer():  # one that has joined must not leave alone
        try:
            jax.distributed.initialize(coordinator_address, process_count, process_index)
        except (ValueError, RuntimeError) as error:
            preemption.safe_point()
            raise UserError(
                f"--multiprocess: {error}; where the environment does not tell, give "
                "--coordinator_address HOST:PORT, --process_count and --process_index"
            ) from error
        preemption.pass_on()


@contextlib.contextmanager
def telling_of_losses() -> Iterator[None]:
    """Within the block an error that comes of another process's end says so.

    Most come at once, from the next exchange of numbers. Who waits for another's decision meanwhile
    is ended by JAX itself, when the lost process has not been heard of for its time: 100 seconds.

    Raises:
      ProcessLostError: another process has ended.
    """
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ProcessLostError(
            f"another of the {jax.process_count()} processes has ended, and this one cannot go on "
            f"without it: what it said last tells why. Call the same command again for all of "
            f"them, or for another number, to go on from the newest checkpoint ({reason})"
        ) from error


def is_loss(error: BaseException | None) -> bool:
    """Whether an error comes of another process's end."""
    kinds = (RuntimeError, ValueError)  # Gloo's are the latter
    return isinstance(error, kinds) and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def is_first() -> bool:
    """Whether this process writes files and speaks to the user."""
    return jax.process_index() == 0


def decide_once(decide: Callable[[], Any]) -> Any:
    """What the first process decides, in every process.

    Several processes may see different things on a shared file system, and what they did about it
    would not fit together.

    Args:
      decide: gives what JSON can hold. The first process calls it, and the others wait.

    Raises:
      Exception: whatever `decide` raises. Where it was called, as it is; elsewhere a `UserError`
        with the same message, or a `RuntimeError` that tells of it.
    """
    if jax.process_count() == 1:
        return decide()
    outcome, raised = None, None
    if is_first():
        try:
            outcome = {"decision": decide()}
        except Exception as error:
            raised = error
            outcome = {"error": str(error), "kind": type(error).__name__}
    _meet()
    outcome = json.loads(_broadcast(json.dumps(outcome)))
    if raised:
        raise raised
    if "error" not in outcome:
        return outcome["decision"]
    if outcome["kind"] == UserError.__name__:
        raise UserError(outcome["error"])
    raise RuntimeError(f"the first process has raised {outcome['kind']}: {outcome['error']}")


def exchange(made: bytes) -> list[bytes]:
    """What each process has made, in their order; all of them call it, each with its own."""
    if jax.process_count() == 1:
        return [made]
    _meet()
    # In two numbers, of 32 bits each.
    sizes = multihost_utils.process_allgather(np.array(divmod(len(made), PIECE), np.int32))
    sizes = [int(pieces) * PIECE + int(rest) for pieces, rest in sizes]
    found = [bytearray() for _ in sizes]
    for start in range(0, max(sizes), PIECE):
        own = np.frombuffer(made[start : start + PIECE], np.uint8)
        padding = min(PIECE, max(sizes) - start) - len(own)
        pieces = multihost_utils.process_allgather(np.pad(own, (0, padding)))
        for whole, piece in zip(found, pieces, strict=True):
            whole += piece.tobytes()
    return [bytes(whole[:size]) for whole, size in zip(found, sizes, strict=True)]


def _meet() -> None:
    """Waits for all. It is no collective: those are given up after some seconds on CPUs."""
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"recalign_meeting_{next(_numbers)}", timeout_ms=PATIENCE)


def agree(here: bool) -> bool:
    """Whether something holds in every process; each tells whether it does in it."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


def gather(arrays: Any) -> Any:
    """A pytree of arrays that are split over processes as numpy arrays, whole in each of them."""
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(arrays, tiled=True))


def _broadcast(text: str) -> str:
    """The first process's text."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    content = content if is_first() else np.zeros(size, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(content)).decode()
