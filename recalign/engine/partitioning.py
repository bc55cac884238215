"""How arrays are laid out over devices: a mesh, and an ordered table of rules."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from flax.linen import partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recalign.errors import UserError, check_positive

Rules = Sequence[tuple[str, str | None]]
Given, Made = ParamSpec("Given"), TypeVar("Made")

# So many compiled functions are kept for whoever asks for an equal one: those of a few runs.
KEPT = 64

_TENSOR_PARALLEL: Rules = (
    ("batch", "data"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
)

PRESETS: dict[str, Rules] = {
    # Every parameter whole on every device; only the batch is split.
    "replicated": (("batch", "data"),),
    # Heads, hidden units and vocabulary over "model" (Shoeybi et al. 2019).
    "tensor_parallel": _TENSOR_PARALLEL,
    # Parameters and optimiser over "data" as well (Rajbhandari et al. 2020, ZeRO stage 3). An
    # activation's "embed" stays whole, because its "batch" has taken "data" already.
    "fully_sharded": (*_TENSOR_PARALLEL, ("embed", "data")),
}


def _is_rule(rule: object) -> bool:
    """Whether it is a logical axis and a mesh axis, or None for none."""
    return (
        isinstance(rule, (list, tuple))
        and len(rule) == 2
        and isinstance(rule[0], str)
        and rule[1] in (None, "data", "model")
    )


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """Lays arrays out over a data × model mesh.

    Attributes:
      num_partitions: devices along "model"; the others are along "data".
      rules: one of `PRESETS`, or a table of logical axis name → mesh axis: the first rule that fits
        wins, and an axis without one is not split.
      devices: which to use, or a function that gives them; by default all.
    """

    num_partitions: int = 1
    rules: str | Rules = "tensor_parallel"
    devices: Sequence[jax.Device] | Callable[[], Sequence[jax.Device]] = jax.devices
    mesh: Mesh = dataclasses.field(init=False)

    def __post_init__(self):
        devices = np.array(self.devices() if callable(self.devices) else self.devices)
        check_positive("Partitioner.num_partitions", self.num_partitions)
        if devices.size % self.num_partitions:
            raise UserError(
                f"Partitioner.num_partitions = {self.num_partitions} does not divide the "
                f"{devices.size} devices"
            )
        rules = PRESETS.get(self.rules) if isinstance(self.rules, str) else self.rules
        if not isinstance(rules, (list, tuple)) or not all(map(_is_rule, rules)):
            raise UserError(
                f"Partitioner.rules is {self.rules!r}, but must be one of "
                f"{', '.join(map(repr, PRESETS))}, or pairs of a logical and a mesh axis"
            )
        object.__setattr__(self, "rules", tuple(map(tuple, rules)))
        object.__setattr__(self, "devices", tuple(devices.flat))
        grid = devices.reshape(-1, self.num_partitions)
        object.__setattr__(self, "mesh", Mesh(grid, ("data", "model")))

    @property
    def data_partitions(self) -> int:
        """How many parts a batch is split into."""
        return self.mesh.shape["data"]

    def rows(self, at_least: int) -> int:
        """The smallest batch of so many rows or more that can be split evenly."""
        return -(-at_least // self.data_partitions) * self.data_partitions

    def compile(
        self,
        function: Callable,
        *,
        out_shardings: Any,
        static_argnames: str | Sequence[str] = (),
        donate_argnums: int | Sequence[int] = (),
    ) -> Callable:
        """`jax.jit` of a function within which `constrain` and `top_k` know the mesh and its rules.

        All that runs the network is compiled by this: left to guess, XLA may split a sum over
        "embed" rather than the batch, and every device then holds the activations of all rows.

        Equal functions are traced and compiled once in a process, whichever run asks: a method of
        equal objects, or `functools.partial` of one function and equal arguments.
        """
        leaves, tree = jax.tree.flatten(out_shardings)
        return _compile(
            _Function(function, _identity(function), self.mesh, self.rules),
            (tuple(leaves), tree),
            static_argnames if isinstance(static_argnames, str) else tuple(static_argnames),
            donate_argnums if isinstance(donate_argnums, int) else tuple(donate_argnums),
        )

    def sharding(self, *logical_axes: str | None) -> NamedSharding:
        """The layout of an array with these axis names."""
        names = PartitionSpec(*logical_axes)
        spec = partitioning.logical_to_mesh_axes(names, rules=self.rules)
        return NamedSharding(self.mesh, spec or PartitionSpec())

    def state_shardings(self, abstract_state: Any, params_axes: Any) -> Any:
        """The layout of each array of a train state.

        Args:
          abstract_state: a pytree of `jax.ShapeDtypeStruct` with a `params` attribute.
          params_axes: the network's "params_axes" collection.

        Returns:
          A pytree of `NamedSharding` like `abstract_state`. An optimiser moment is laid out as the
          parameter at the end of its path if it has that one's shape; what is smaller (factored
          moments, counters) is on every device.
        """
        names = partitioning.get_axis_names(params_axes)
        shardings = {
            _path(path): self.sharding(*spec)
            for path, spec in jax.tree_util.tree_leaves_with_path(
                names, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
            )
        }
        shapes = {
            _path(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state.params)
        }
        by_suffix = re.compile(f"(?:^|/)({'|'.join(map(re.escape, shapes))})$")

        def of(path, leaf) -> NamedSharding:
            match = by_suffix.search(_path(path))
            if match and shapes[match.group(1)] == leaf.shape:
                return shardings[match.group(1)]
            return self.sharding()

        return jax.tree_util.tree_map_with_path(of, abstract_state)

    def abstract_batch(self, batch: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch and how `put_batch` would lay them out."""
        return {
            name: jax.ShapeDtypeStruct(
                values.shape,
                values.dtype,
                sharding=self.sharding("batch", *[None] * (len(values.shape) - 1)),
            )
            for name, values in batch.items()
        }

    def held_rows(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a batch that this process needs, however the mesh lies over the processes.

        Returns:
          int64[h], the rows that its devices take, and int64[k], those of them that no process
          before it takes: of all processes' rows these are each one once. Both ascend.

        Raises:
          UserError: the rows cannot be split evenly.
        """
        self._check_split(batch_size)
        within = np.arange(batch_size // self.data_partitions)
        held, own = ((parts[:, None] * len(within) + within).ravel() for parts in self._held_parts)
        return held, own

    @functools.cached_property
    def _held_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """`held_rows` of the smallest batch."""
        parts = np.arange(self.data_partitions)
        first = np.full(len(parts), jax.process_count())
        held = np.zeros(len(parts), bool)
        taken = self.sharding("batch").devices_indices_map(parts.shape)
        for device, (part,) in taken.items():
            first[part] = np.minimum(first[part], device.process_index)
            held[part] |= device.process_index == jax.process_index()
        return parts[held], parts[held & (first == jax.process_index())]

    def put_rows(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch as arrays split along "data", of which every process has its `held_rows` alone.

        So several processes compute what one does, though none of them has the whole batch.
        """
        held = len(next(iter(rows.values())))
        batch_size = held * self.data_partitions // len(self._held_parts[0])
        place = np.full(batch_size, held)  # no row, which is an error
        place[self.held_rows(batch_size)[0]] = np.arange(held)
        return {
            name: jax.make_array_from_callback(
                (batch_size, *values.shape[1:]),
                self.sharding("batch", *[None] * (values.ndim - 1)),
                lambda part, values=values: values[place[part[0]]],
            )
            for name, values in rows.items()
        }

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch that every process has whole, as arrays split along "data".

        Raises:
          UserError: the rows cannot be split evenly.
        """
        self._check_split(len(next(iter(batch.values()))))
        return {
            name: put(values, self.sharding("batch", *[None] * (values.ndim - 1)))
            for name, values in batch.items()
        }

    def _check_split(self, rows: int) -> None:
        if rows % self.data_partitions:
            raise UserError(
                f"a batch of {rows} rows (BATCH_SIZE) cannot be split over "
                f"{self.data_partitions} data partitions"
            )


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function under a layout; those of one identity are equal.

    Attributes:
      function: what is computed.
      identity: see `_identity`.
      mesh: the devices.
      rules: of the layout.
    """

    function: Callable = dataclasses.field(compare=False)
    identity: Hashable
    mesh: Mesh
    rules: Rules


def _identity(function: Callable) -> Hashable:
    """What functions that compute the same have in common: what they are made of."""
    if isinstance(function, functools.partial):
        chosen = tuple(sorted(function.keywords.items()))
        return _identity(function.func), function.args, chosen
    if inspect.ismethod(function):
        return function.__func__, function.__self__
    return function


@functools.lru_cache(maxsize=KEPT)
def _compile(
    function: _Function,
    out_shardings: tuple[tuple, Any],
    static_argnames: str | tuple[str, ...],
    donate_argnums: int | tuple[int, ...],
) -> Callable:
    """See `Partitioner.compile`."""
    compute, mesh, rules = function.function, function.mesh, function.rules

    @functools.wraps(compute)
    def trace(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), partitioning.axis_rules(rules):
            return compute(*args, **kwargs)

    leaves, tree = out_shardings
    return jax.jit(
        trace,
        out_shardings=jax.tree.unflatten(tree, leaves),
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
    )


def share(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Has a function give one object for equal arguments, so that what is compiled of it is shared.

    A plain function, as what is kept by `functools.cache` is not: gin's references are checked.
    """
    kept = functools.cache(make)

    @functools.wraps(make)
    def give(*args: Given.args, **options: Given.kwargs) -> Made:
        return kept(*args, **options)

    return give


def forget_compiled() -> None:
    """Has everything compiled anew."""
    _compile.cache_clear()


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Lays an activation out as the rules say, under `Partitioner.compile`; else does nothing.

    An axis that its devices do not divide stays whole.
    """
    spec = _spec(x, logical_axes)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of rows [B, n]; under `Partitioner.compile` each device takes its own rows.

    XLA does not split this operation: it would have every device take the rows of all.
    """
    spec = _spec(x, ("batch", None))

    def of_rows(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(jax.lax.top_k(rows, k))

    if spec is None:
        return of_rows(x)
    return jax.shard_map(of_rows, in_specs=spec, out_specs=(spec, spec))(x)


def _spec(x: jax.Array, logical_axes: Sequence[str | None]) -> PartitionSpec | None:
    """How the rules split an array; None where nothing is to be split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return None
    axes = partitioning.logical_to_mesh_axes(logical_axes)
    return PartitionSpec(
        *(
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, x.shape, strict=True)
        )
    )


def put(values: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has whole, laid out; each device takes its part alone."""
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
