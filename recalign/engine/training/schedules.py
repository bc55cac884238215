"""Learning rates as T5X's gin files describe them: a product of named factors."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from recalign.engine.partitioning import share
from recalign.errors import UserError

FACTORS: dict[str, Callable] = {
    "constant": lambda step, base, warmup: base,
    "linear_warmup": lambda step, base, warmup: jnp.minimum(1.0, step / warmup),
    "rsqrt_decay": lambda step, base, warmup: jnp.maximum(step, warmup) ** -0.5,
    "rsqrt_normalized_decay": lambda step, base, warmup: jnp.maximum(step / warmup, 1.0) ** -0.5,
}


@share
def learning_rate_schedule(
    factors: str = "constant",
    base_learning_rate: float = 1e-3,
    warmup_steps: int = 1000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> optax.Schedule:
    """A schedule from step to float32 learning rate.

    Args:
        factors: names in `FACTORS`, joined by '*': 'constant' for fine-tuning (T5X's recipe of
            FLAN-T5 takes 1e-3), 'constant * linear_warmup * rsqrt_decay' from scratch.
        base_learning_rate: what 'constant' is.
        warmup_steps: length of the warm-up, and where the decay starts.
        step_offset: the step that counts as 0.
        min_learning_rate: the schedule never goes below; linear warm-up starts at 0.

    Raises:
        UserError: A factor is not known.
    """
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in FACTORS:
            raise UserError(
                f"learning rate factor {name!r} in {factors!r} is not known: "
                f"expected {', '.join(FACTORS)}, joined by '*'"
            )

    def schedule(step):
        step = jnp.maximum(0, jnp.asarray(step) - step_offset).astype(jnp.float32)
        rate = 1.0
        for name in names:
            rate = rate * FACTORS[name](step, base_learning_rate, float(warmup_steps))
        return jnp.maximum(jnp.asarray(rate, jnp.float32), min_learning_rate)

    return schedule
