"""What gin/t5x/ gives T5X beside its own parts; T5X is imported only where it is needed."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import seqio
from flax import traverse_util

from recalign.engine.network.config import T5Config
from recalign.engine.search.saved_trie import index_of
from recalign.errors import UserError
from recalign.samples import inputs, judged
from recalign.t5x.decoding import constrained_decode_fn

Tree = Mapping[str, Any]


def vocabulary(mixture_or_task_name: str, module: str | None = None) -> seqio.Vocabulary:
    """The vocabulary of a task or mixture, which T5X wants to be told twice."""
    provider = inputs.mixture_or_task(mixture_or_task_name, module)
    return provider.output_features["targets"].vocabulary


def items_only(
    mixture_or_task_name: str,
    module: str | None = None,
    renormalise: bool = False,
    ends_compete: bool = True,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A `decode_fn` that writes nothing but items of the domain of a task or mixture.

    Args:
      mixture_or_task_name: a retrieval task, or a mixture that holds one. Of any other it will
        write nothing, but T5X can train it.
      module: imported first, so that it can register tasks.
      renormalise: as in `constrained_decode_fn`.
      ends_compete: likewise.
    """
    found = judged.catalogue(mixture_or_task_name, module)
    if found is None:
        return functools.partial(_refuse, mixture_or_task_name)
    return constrained_decode_fn(
        jax.device_put(index_of(*found)), renormalise=renormalise, ends_compete=ends_compete
    )


def _refuse(name: str, **_: Any) -> None:
    """The `decode_fn` of a mixture that asks for no items."""
    raise UserError(f"{name} holds no retrieval or ranking task, so there are no items to write")


def t5x_config(config: T5Config) -> Any:
    """The same architecture for T5X's own network, which knows no scan and no remat.

    Raises:
      UserError: it has what T5X's network cannot have, such as a copy gate.
    """
    from t5x.examples.t5 import network

    known = network.T5Config.__dataclass_fields__.keys()
    for field in dataclasses.fields(config):
        is_other = getattr(config, field.name) != field.default
        if is_other and field.name not in known | {"scan_layers", "remat_policy"}:
            raise UserError(
                f"T5X's own network has no {field.name}: T5Config.{field.name} = {field.default} "
                "trains it"
            )
    return network.T5Config(
        **{name: value for name, value in vars(config).items() if name in known}
    )


def parameters_alone(checkpoint: Tree, state: Tree, *, is_resuming: bool = False) -> Tree:
    """Takes the parameters of a checkpoint, and neither its step nor its optimiser.

    A `state_transformation_fns` entry of T5X's `RestoreCheckpointConfig`: so TRAIN_STEPS counts
    from the checkpoint that a run starts from, as it does for `recalign train`.

    Args:
      checkpoint: the state in the checkpoint.
      state: the state that training needs.
      is_resuming: the checkpoint is of this very run, and taken whole.

    Raises:
      ValueError: the checkpoint lacks a parameter; T5X itself would go on with a random one.
    """
    if is_resuming:
        return checkpoint
    # In T5X's older format an array is a TensorStore specification, a dictionary itself.
    has, wants = (
        set(traverse_util.flatten_dict(tree["target"], is_leaf=lambda _, v: "driver" in v))
        for tree in (checkpoint, state)
    )
    if wants - has:
        name = "/".join(min(wants - has))
        raise ValueError(f"INITIAL_CHECKPOINT_PATH: the checkpoint has no parameter {name}")
    return {"target": checkpoint["target"]}
