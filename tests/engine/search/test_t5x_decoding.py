"""The search as T5X calls it: beams merged into the batch, a flax cache, the best item last."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.search.retrieval import retrieve
from recalign.engine.search.trie import EOS, CatalogueIndex
from recalign.t5x.decoding import constrained_decode_fn
from tests.engine.search.networks import make_network

HISTORIES = np.array([[7, 9, 30, 1, 0, 0], [5, 5, 12, 39, 8, 1]], np.int32)
SEQUENCES = [[5, 6, EOS], [5, EOS], [9, 2, 3, EOS], [9, 3, EOS], [5, 6, 7, EOS]]
LENGTH, BEAMS = 6, 4


@pytest.fixture(scope="module")
def index():
    return jax.device_put(CatalogueIndex.build(SEQUENCES))


@pytest.fixture(scope="module", params=["tiny_model", "copy_gate"])
def any_model(request):
    if request.param == "tiny_model":
        return request.getfixturevalue("tiny_model")
    module, variables = make_network(num_decoder_layers=1, copy_gate=True)
    return module, variables["params"]


def predict_batch(model, decode_fn, prompt=None, **decoder_params):
    """What T5X's `EncoderDecoderModel.predict_batch_with_aux` does around its `decode_fn`.

    Its network adds to the cache, which is right where nothing stands at that position: so here.
    """
    module, params = model
    targets = jnp.ones((len(HISTORIES), LENGTH), jnp.int32)
    options = {"decode": True, "enable_dropout": False, "mutable": ["cache"]}
    variables = {"params": params}
    _, cache = module.apply(variables, jnp.ones_like(HISTORIES), targets, targets, **options)
    encoded = module.apply(variables, HISTORIES, enable_dropout=False, method="encode")
    encoded, inputs = (jnp.repeat(x, BEAMS, axis=0) for x in (encoded, HISTORIES))

    def tokens_to_logits(state):
        logits, new = module.apply(
            variables | {"cache": state.cache},
            encoded,
            inputs,
            state.cur_token,
            state.cur_token,
            max_decode_length=LENGTH,
            method="decode",
            **options,
        )
        here = jnp.arange(LENGTH) == state.cur_index

        def add(new, old):
            """Lengths are the second axis; counters have none."""
            return new + old * here.reshape(-1, *[1] * (old.ndim - 2)) if old.ndim else new

        return logits[:, 0], jax.tree.map(add, new["cache"], dict(state.cache))

    return decode_fn(
        inputs=jnp.zeros_like(targets) if prompt is None else prompt,
        cache=cache["cache"],
        tokens_to_logits=tokens_to_logits,
        eos_id=EOS,
        num_decodes=BEAMS,
        cache_offset=0,
        **decoder_params,
    )


def test_gives_what_retrieve_gives_best_last(any_model, index):
    module, params = any_model
    excluded = jnp.array([[1], [-1]], jnp.int32)
    decode_fn = constrained_decode_fn(index)
    predict = jax.jit(functools.partial(predict_batch, any_model, decode_fn))
    sequences, scores = predict(excluded=excluded)
    options = {"num_beams": BEAMS, "exclusions": (excluded,)}
    [wanted] = jax.jit(functools.partial(retrieve, module, index=index, **options))(
        {"params": params}, HISTORIES
    )
    assert sequences.shape == (len(HISTORIES), BEAMS, LENGTH)
    np.testing.assert_allclose(scores, wanted.scores[:, ::-1], atol=1e-4)
    rows = np.asarray([[*row, *[0] * (LENGTH - len(row))] for row in SEQUENCES])
    np.testing.assert_array_equal(sequences, rows[wanted.items[:, ::-1]])


@pytest.mark.parametrize("prompt", [[[], [31]], [[12, 6], [5]], [[7, 8], [9, 3]]])
def test_answers_that_begin_with_given_tokens(any_model, index, prompt):
    """Each example with a number of its own: T5X counts one position for all."""
    module, params = any_model
    given = np.array([[*row, *[0] * (2 - len(row))] for row in prompt], np.int32)
    [wanted] = jax.jit(functools.partial(retrieve, module, index=index, num_beams=BEAMS))(
        {"params": params}, HISTORIES, given=given
    )
    decode_fn = constrained_decode_fn(index)
    predict = jax.jit(functools.partial(predict_batch, any_model, decode_fn))
    sequences, scores = predict(prompt=np.pad(given, ((0, 0), (1, LENGTH - 3))))
    np.testing.assert_allclose(scores, wanted.scores[:, ::-1], atol=1e-4)
    rows = np.asarray([[*row, *[0] * (LENGTH - len(row))] for row in SEQUENCES])
    np.testing.assert_array_equal(sequences, rows[wanted.items[:, ::-1]])


def test_targets_too_short_for_an_item_are_refused(index):
    decode = constrained_decode_fn(index)
    with pytest.raises(ValueError, match="length 3, but the longest item of the catalogue has 4"):
        decode(jnp.zeros((2, 3), jnp.int32), {}, lambda state: state, EOS)
