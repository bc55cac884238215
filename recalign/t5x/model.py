"""T5X's model, which can also choose between given answers. For gin/t5x: this imports T5X."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from t5x import decoding, models

from recalign.engine.search.trie import EOS, PAD
from recalign.evaluation.judges import SPARE_TOKENS
from recalign.samples.answers import FeatureConverter
from recalign.t5x.evaluator import CHOICES

Batch = Mapping[str, jax.Array]


class EncoderDecoderModel(models.EncoderDecoderModel):
    """T5X's own, but for examples that come with `choices` int32[B, C, L].

    These are judged as the built-in engine does it: by the probability of each choice, and by what
    is written if nothing tells the model what it may write, which `decode_fn` is not asked for.

    Where an answer begins with given tokens, those that count in no loss, prediction begins with
    them too.
    """

    FEATURE_CONVERTER_CLS = FeatureConverter

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        greedy = functools.partial(decoding.temperature_sample, temperature=0.0)
        self._writer = models.EncoderDecoderModel(
            *args, **{**options, "decode_fn": greedy, "default_decoder_params": None}
        )

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: jax.Array | None = None, **options: Any
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """With choices, int32[B, L + SPARE_TOKENS], where an answer that does not end is padding.

        See T5X for anything else.
        """
        if CHOICES not in batch:
            asked = {**batch, "decoder_input_tokens": _prompt(batch)}
            options = {"prompt_with_targets": True, **options}
            return super().predict_batch_with_aux(params, asked, rng, **options)
        examples, _, longest = batch[CHOICES].shape
        room = jnp.zeros((examples, longest + SPARE_TOKENS), jnp.int32)
        asked = {**batch, "decoder_input_tokens": room}
        tokens, aux = self._writer.predict_batch_with_aux(params, asked, rng, **options)
        ended = jnp.any(tokens == EOS, axis=1, keepdims=True)
        return jnp.where(ended, tokens, PAD), aux

    def score_batch(
        self, params: Any, batch: Batch, return_intermediates: bool = False
    ) -> jax.Array | tuple[jax.Array, Mapping[str, Any]]:
        """With choices, the log-probability of each, float32[B, C]; see T5X for anything else."""
        if CHOICES not in batch:
            return super().score_batch(params, batch, return_intermediates)
        apply = functools.partial(self.module.apply, {"params": params}, enable_dropout=False)
        question = batch["encoder_input_tokens"]
        encoded = apply(question, method=self.module.encode)
        prompt, given = _prompt(batch), _given_tokens(batch)[:, None]

        def score(choice: jax.Array) -> jax.Array:
            # After the given tokens, as far as the targets reach.
            places = jnp.arange(prompt.shape[1]) - given
            answer = jnp.take_along_axis(choice, jnp.maximum(places, 0), axis=1, mode="clip")
            answer = jnp.where((places >= 0) & (places < choice.shape[1]), answer, PAD)
            begun = jnp.pad(prompt, ((0, 0), (0, 1)))[:, 1:]
            target = jnp.where(places < 0, begun, answer)
            before = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
            logits = apply(encoded, question, before, target, method=self.module.decode)
            log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
            chosen = jnp.take_along_axis(log_probs, answer[:, :, None], axis=2)[:, :, 0]
            return jnp.sum(jnp.where(answer == PAD, 0, chosen), axis=1)

        # One after the other: the logits of all at once may not fit.
        return jax.lax.map(score, jnp.moveaxis(batch[CHOICES], 1, 0)).T


def _given_tokens(batch: Batch) -> jax.Array:
    """How many tokens each answer begins with that count in no loss, int32[B]."""
    uncounted = (batch["decoder_target_tokens"] > 0) & (batch["decoder_loss_weights"] == 0)
    return jnp.sum(uncounted, axis=1, dtype=jnp.int32)


def _prompt(batch: Batch) -> jax.Array:
    """The start token and these, then padding, int32[B, L]."""
    tokens = batch["decoder_input_tokens"]
    return jnp.where(jnp.arange(tokens.shape[1]) <= _given_tokens(batch)[:, None], tokens, PAD)
