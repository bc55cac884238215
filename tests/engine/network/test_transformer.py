"""The network: parity with T5X, stepwise decoding, masks, scales."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.linen import partitioning
from jax.sharding import Mesh

from recalign.engine.network.layers import RelativePositionBias, relative_position_bucket
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.errors import UserError

SEGMENTS = ("encoder_segment_ids", "decoder_segment_ids")


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, batch, dropout=None):
    """Teacher-forced logits of a batch named as T5X names it."""
    return model.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        **{name: batch[name] for name in SEGMENTS if name in batch},
        enable_dropout=dropout is not None,
        rngs=None if dropout is None else {"dropout": dropout},
    )


def batch_of(golden, name):
    return {key.split("/")[1]: v for key, v in golden.items() if key.startswith(f"{name}/")}


def random_batch(vocab=40, batch=3, source=7, target=5, seed=0):
    rng = np.random.default_rng(seed)
    encoder = rng.integers(2, vocab, (batch, source), dtype=np.int32)
    encoder[0, -3:] = 0
    targets = rng.integers(2, vocab, (batch, target), dtype=np.int32)
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
    }


def assert_close(actual, expected, relative):
    """Within `relative` of the largest value: logits near zero have no relative precision."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize("name", ["unpacked", "packed"])
def test_logits_are_those_of_t5x(golden, golden_model, optimised, name):
    batch = batch_of(golden, name)
    compiled = jax.jit(forward.__wrapped__, static_argnums=0, compiler_options=optimised)
    logits = compiled(*golden_model, batch)
    assert logits.dtype == jnp.float32
    assert_close(logits, batch["logits"], 1e-5)


def test_parameters_are_named_and_shaped_as_in_t5x(golden_model):
    model, params = golden_model
    ours = jax.eval_shape(lambda: initialise(model))["params"]
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, params)


@functools.partial(jax.jit, static_argnums=0)
def initialise(model):
    tokens = jnp.ones((1, 4), jnp.int32)
    return model.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)


def test_every_parameter_has_logical_axes(tiny_model):
    variables = initialise(tiny_model[0])
    axes = traverse_util.flatten_dict(variables["params_axes"], sep="/")
    for name, value in traverse_util.flatten_dict(variables["params"], sep="/").items():
        assert len(axes[f"{name}_axes"].names) == value.ndim
    assert axes["token_embedder/embedding_axes"].names == ("vocab", "embed")
    assert axes["encoder/layers_0/mlp/wi_0/kernel_axes"].names == ("embed", "mlp")
    assert axes["decoder/layers_0/self_attention/out/kernel_axes"].names == ("joined_kv", "embed")
    assert axes["decoder/relpos_bias/rel_embedding_axes"].names == ("heads", "relpos_buckets")


def test_initial_scales():
    config = T5Config(
        64, emb_dim=256, num_heads=4, head_dim=64, mlp_dim=512,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    params = traverse_util.flatten_dict(initialise(Transformer(config))["params"], sep="/")
    deviation = {name: float(jnp.std(value)) for name, value in params.items()}
    layer = "encoder/layers_0"
    expected = {
        "token_embedder/embedding": 1.0,
        f"{layer}/attention/query/kernel": (256 * 64) ** -0.5,
        f"{layer}/attention/key/kernel": 256**-0.5,
        f"{layer}/attention/out/kernel": 256**-0.5,
        f"{layer}/mlp/wi_0/kernel": 256**-0.5,
        f"{layer}/mlp/wo/kernel": 512**-0.5,
        "decoder/logits_dense/kernel": 256**-0.5,
        "encoder/relpos_bias/rel_embedding": (2 / (4 + 32)) ** 0.5,
    }
    for name, value in expected.items():
        assert deviation[name] == pytest.approx(value, rel=0.15), name


@pytest.fixture(scope="module")
def gated_model(tiny_model):
    """The same with a copy gate, which opens."""
    model = Transformer(dataclasses.replace(tiny_model[0].config, copy_gate=True))
    return model, initialise(model)["params"]


@pytest.fixture(scope="module")
def weighing_model(gated_model):
    """That with weights of what stands in the question."""
    model = Transformer(dataclasses.replace(gated_model[0].config, copy_weights=True))
    return model, initialise(model)["params"]


@pytest.fixture(params=["tiny_model", "gated_model", "weighing_model"])
def any_model(request):
    return request.getfixturevalue(request.param)


def test_tokens_may_be_floats_as_where_t5x_initialises(any_model):
    model, params = any_model
    ones = jnp.ones((1, 2), jnp.float32)
    made = jax.eval_shape(
        lambda: model.init(jax.random.key(0), ones, ones, ones, enable_dropout=False)
    )
    assert jax.tree.map(jnp.shape, made["params"]) == jax.tree.map(jnp.shape, params)


def test_a_copy_gate_moves_what_stands_before_and_nothing_else(gated_model):
    """By one number at each position; against a loop over positions and tokens."""
    model, params = gated_model
    batch = random_batch()
    logits = forward(model, params, batch)
    shut = {**params, "copy_gate": jax.tree.map(jnp.zeros_like, params["copy_gate"])}
    moved = np.asarray(logits - forward(model, shut, batch))
    for row, question in enumerate(batch["encoder_input_tokens"]):
        for position in range(moved.shape[1]):
            answer = batch["decoder_input_tokens"][row, : position + 1]
            present = sorted({*question, *answer} - {0})
            by = moved[row, position, present]
            assert abs(by[0]) > 1e-3
            np.testing.assert_allclose(by, by[0], atol=1e-5)
            assert not np.delete(moved[row, position], present).any()


def test_copy_weights_move_each_token_of_the_question_by_the_sum_of_its_own(weighing_model):
    """Against a loop over rows and tokens; row 0 says a token twice."""
    model, params = weighing_model
    batch = random_batch()
    batch["encoder_input_tokens"][0, 1] = batch["encoder_input_tokens"][0, 0]
    kernel = params["copy_weights"]["kernel"]
    shut = {**params, "copy_weights": {"kernel": jnp.zeros_like(kernel)}}
    moved = np.asarray(forward(model, params, batch) - forward(model, shut, batch))
    question = batch["encoder_input_tokens"]
    encoded = model.apply({"params": params}, question, enable_dropout=False, method="encode")
    expected = np.zeros_like(moved)
    for row, tokens in enumerate(question):
        for token, state in zip(tokens, encoded[row], strict=True):
            if token:
                expected[row, :, token] += float(state @ kernel[:, 0])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_copy_weights_need_a_gate():
    with pytest.raises(UserError, match="needs T5Config"):
        T5Config(40, copy_weights=True)


def step_through(model, params, batch, beams=1, compiler_options=None):
    """Logits [B,K,L,V] of `decode_step` fed with the decoder inputs, beam k's rolled by k."""
    variables = {"params": params}
    source = batch["encoder_input_tokens"]
    compiled = functools.partial(jax.jit, compiler_options=compiler_options)

    @compiled
    def project(source):
        encoded = model.apply(variables, source, enable_dropout=False, method="encode")
        return model.apply(variables, encoded, method="project_encoded")

    cross_kv = project(source)
    inputs = np.stack([np.roll(batch["decoder_input_tokens"], k, axis=0) for k in range(beams)], 1)
    cache = model.empty_cache(len(source), beams, inputs.shape[-1])

    @compiled
    def step(tokens, cache, position):
        return model.apply(
            variables, tokens, cache, position, cross_kv, source, method="decode_step"
        )

    logits = []
    for position in range(inputs.shape[-1]):
        one, cache = step(inputs[:, :, position], cache, position)
        logits.append(one)
    return np.stack(logits, axis=2), inputs


@pytest.mark.parametrize(
    ("tied", "gate", "weights"),
    [(False, False, False), (True, False, False), (True, True, False), (True, True, True)],
)
def test_stepping_beams_equals_the_teacher_forced_pass(tied, gate, weights):
    model = Transformer(
        T5Config(
            40, emb_dim=16, num_heads=3, head_dim=4, mlp_dim=24, logits_via_embedding=tied,
            num_encoder_layers=2, num_decoder_layers=2, copy_gate=gate, copy_weights=weights,
        )
    )  # fmt: skip
    params = initialise(model)["params"]
    batch = random_batch()
    logits, inputs = step_through(model, params, batch, beams=3)
    for beam in range(3):
        batch["decoder_input_tokens"] = inputs[:, beam]
        assert_close(logits[:, beam], forward(model, params, batch), 2e-6)


def test_stepping_equals_t5x(golden, golden_model, optimised):
    batch = batch_of(golden, "unpacked")
    logits, _ = step_through(*golden_model, batch, compiler_options=optimised)
    real = batch["decoder_target_tokens"] > 0  # T5X masks queries at padding, a step cannot
    assert_close(logits[:, 0][real], batch["logits"][real], 1e-5)


def test_cache_leaves_have_the_documented_shape(tiny_model):
    for leaf in jax.tree.leaves(tiny_model[0].empty_cache(2, 5, 9)):
        assert leaf.shape == (2, 5, 9, 3, 4)


def test_logits_of_a_part_of_the_vocabulary(any_model):
    model, params = any_model
    source = random_batch()["encoder_input_tokens"]
    apply = functools.partial(model.apply, {"params": params})
    encoded = apply(source, enable_dropout=False, method="encode")
    cross_kv = apply(encoded, method="project_encoded")
    tokens = jnp.full((3, 2), 7, jnp.int32)
    step = (tokens, model.empty_cache(3, 2, 4), 0, cross_kv, source)
    logits, _ = apply(*step, method="decode_step")
    alphabet = jnp.array([7, 3, 39, *source[1, :2]])
    some, _ = apply(*step, alphabet=alphabet, method="decode_step")
    np.testing.assert_allclose(some, logits[..., alphabet], rtol=1e-5, atol=1e-6)


def test_flax_cache_decodes_as_t5x_drives_it(golden, golden_model):
    """Stepping along T5X's beam-1 decodes through the 'cache' collection gives its scores."""
    model, params = golden_model
    source = golden["unpacked/encoder_input_tokens"]
    decodes = golden["beam1/decodes"][:, 0]
    batch, length = decodes.shape
    ones = jnp.ones((batch, length), jnp.int32)
    _, made = model.apply(
        {"params": params}, jnp.ones_like(source), ones, ones,
        decode=True, enable_dropout=False, mutable=["cache"],
    )  # fmt: skip
    encoded = model.apply({"params": params}, source, enable_dropout=False, method="encode")

    @jax.jit
    def step(cache, tokens):
        logits, made = model.apply(
            {"params": params, "cache": cache}, encoded, source, tokens, tokens,
            enable_dropout=False, decode=True, max_decode_length=length,
            mutable=["cache"], method="decode",
        )  # fmt: skip
        return jax.nn.log_softmax(logits[:, 0]), made["cache"]

    cache, scores = made["cache"], 0.0
    tokens = np.zeros((batch, 1), np.int32)
    for target in decodes.T[:, :, None]:
        log_probs, cache = step(cache, tokens)
        scores += np.where(target > 0, np.take_along_axis(log_probs, target, axis=1), 0.0)
        tokens = target
    np.testing.assert_allclose(scores, golden["beam1/scores"], rtol=1e-5)


def test_padding_changes_nothing(any_model):
    batch = random_batch()
    longer = {k: np.pad(v, ((0, 0), (0, 4))) for k, v in batch.items()}
    assert_close(forward(*any_model, longer)[:, :5], forward(*any_model, batch), 2e-6)


def test_packed_examples_do_not_see_each_other(any_model):
    one, two = random_batch(seed=1, batch=1), random_batch(seed=2, batch=1)
    one["encoder_input_tokens"][:] += one["encoder_input_tokens"] == 0
    two["encoder_input_tokens"][:] += two["encoder_input_tokens"] == 0
    packed = {k: np.concatenate([one[k], two[k]], axis=1) for k in one}
    packed["encoder_segment_ids"] = np.repeat([[1, 2]], 7, axis=1)
    packed["decoder_segment_ids"] = np.repeat([[1, 2]], 5, axis=1)
    logits = forward(*any_model, packed)
    assert_close(logits[:, :5], forward(*any_model, one), 2e-6)
    assert_close(logits[:, 5:], forward(*any_model, two), 2e-6)


def test_a_token_outside_the_vocabulary_gives_nan(tiny_model):
    batch = random_batch()
    batch["encoder_input_tokens"][1, 0] = 40
    assert bool(jnp.isnan(forward(*tiny_model, batch)[1]).all())


def test_bfloat16_keeps_float32_parameters_and_logits(tiny_model):
    model = Transformer(dataclasses.replace(tiny_model[0].config, dtype="bfloat16"))
    params = initialise(model)["params"]
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    batch = random_batch()
    logits = forward(model, params, batch)
    assert logits.dtype == jnp.float32
    assert_close(logits, forward(tiny_model[0], params, batch), 0.05)


def test_bfloat16_trains_without_float32_products(tiny_model):
    model = Transformer(dataclasses.replace(tiny_model[0].config, dtype="bfloat16"))
    batch = random_batch()
    step = jax.jit(jax.grad(lambda params: forward(model, params, batch).sum()))
    products = [
        line for line in step.lower(tiny_model[1]).as_text().splitlines() if "dot_general" in line
    ]
    # the sum of the bias' gradient over the batch is a product with ones, in float32
    products = [line for line in products if "tensor<3xf32>" not in line]
    assert len(products) > 100
    assert not [line for line in products if "f32>, tensor" in line.split(" : ")[1]]


def test_dropout_is_drawn_from_its_key(tiny_model):
    batch = random_batch()
    zero, again, one = (forward(*tiny_model, batch, jax.random.key(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(zero, again)
    assert not np.array_equal(zero, one)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_relative_bias_equals_its_definition(bidirectional):
    length = 9
    module = RelativePositionBias(2, bidirectional)
    variables = module.init(jax.random.key(0), length)
    table = variables["params"]["rel_embedding"]
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    buckets = relative_position_bucket(offset, bidirectional)
    weights = jax.random.normal(jax.random.key(1), (2, length, length))

    def diagonals(table):
        return module.apply({"params": {"rel_embedding": table}}, length)[0]

    np.testing.assert_array_equal(diagonals(table), table[:, buckets])
    gradient = jax.grad(lambda table: jnp.sum(diagonals(table) * weights))(table)
    expected = jax.grad(lambda table: jnp.sum(table[:, buckets] * weights))(table)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_buckets_of_known_distances():
    offsets = np.array([0, -1, -7, -8, -127, -128, -5000, 1, 8, 128])
    np.testing.assert_array_equal(
        relative_position_bucket(offsets, bidirectional=True),
        [0, 1, 7, 8, 15, 15, 15, 17, 24, 31],
    )
    np.testing.assert_array_equal(
        relative_position_bucket(offsets, bidirectional=False),
        [0, 1, 7, 8, 31, 31, 31, 0, 0, 0],
    )


def test_a_mesh_and_axis_rules_leave_the_logits_alone(tiny_model):
    batch = random_batch()
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    rules = [("batch", "data"), ("vocab", "model"), ("mlp", "model"), ("heads", "model")]
    rules += [("joined_kv", "model"), ("embed", None), ("length", None), ("kv", None)]
    with mesh, partitioning.axis_rules(rules):
        sharded = jax.jit(lambda batch: forward.__wrapped__(*tiny_model, batch))(batch)
    assert_close(sharded, forward(*tiny_model, batch), 2e-6)
