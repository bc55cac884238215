"""Hostile checkpoints: opening one gives its parameters or one clear error, and nothing else.

RECALIGN_FUZZ_EXAMPLES sets how many mutations are tried of each file.
"""

import dataclasses
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.weights import hf
from recalign.engine.weights.conversion import load_params
from recalign.errors import UserError
from tests.engine.smallest import CONFIG as SMALLEST
from tests.engine.weights.saving import save_params

EXAMPLES = int(os.environ.get("RECALIGN_FUZZ_EXAMPLES", 40))
CONFIG = dataclasses.replace(SMALLEST, mlp_dim=4)
HEADERS = {
    "t5x": ["checkpoint", "target.token_embedder.embedding/.zarray"],
    "hf": ["config.json", hf.INDEX, "model-00001-of-00002.safetensors"],
    "orbax": ["_METADATA", "manifest.ocdbt"],
}


@functools.cache
def whole(to):
    """A valid checkpoint in a format, Hugging Face's in two shards."""
    folder = Path(tempfile.mkdtemp(prefix="recalign-fuzz-")) / to
    rng = np.random.default_rng(0)
    params = {}
    for name, shape in parameter_shapes(CONFIG).items():
        *parents, leaf = name.split("/")
        functools.reduce(lambda tree, part: tree.setdefault(part, {}), parents, params)[leaf] = (
            rng.normal(size=shape).astype(np.float32)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "SHARD_BYTES", 500)
        patch.setattr(hf.write, "__defaults__", (500,))
        save_params(params, str(folder), to)
    return folder


HOSTILE = [None, -1, 2**63, 0.5, "", "../../etc/passwd", [], {}, [[]], True, "\0", [-1, 5], "F99"]


@st.composite
def mutated_tree(draw, tree):
    """A tree of objects and lists in which one place holds something hostile, or is gone."""
    paths = []

    def walk(node, path):
        paths.append(path)
        if isinstance(node, (dict, list)):
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                walk(value, (*path, key))

    walk(tree, ())
    path = draw(st.sampled_from(paths))
    value = draw(st.sampled_from(HOSTILE))
    if not path:
        return value
    return _with(tree, path, value, draw(st.booleans()))


def _with(tree, path, value, drop):
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) > 1:
        copy[path[0]] = _with(copy[path[0]], path[1:], value, drop)
    elif drop:
        del copy[path[0]]
    else:
        copy[path[0]] = value
    return copy


@st.composite
def mutated_bytes(draw, content):
    """Bytes cut, changed, doubled, or from nowhere."""
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "change", "double", "other"]))
    if kind == "cut":
        return content[:place]
    if kind == "change":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place + 1 :]
    return content + content[:place] if kind == "double" else draw(st.binary(max_size=99))


@st.composite
def mutated(draw, name, content):
    """A header with one fault in its bytes, or in what its format holds."""
    if draw(st.booleans()):
        return draw(mutated_bytes(content))
    if name == "checkpoint":
        return msgpack.packb(draw(mutated_tree(msgpack.unpackb(content, strict_map_key=False))))
    if name.endswith(".safetensors"):
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(draw(mutated_tree(json.loads(content[8:end])))).encode()
        return len(header).to_bytes(8, "little") + header + content[end:]
    try:
        return json.dumps(draw(mutated_tree(json.loads(content)))).encode()
    except ValueError:
        return draw(mutated_bytes(content))


CASES = [(to, name) for to, names in HEADERS.items() for name in names]


@pytest.mark.parametrize(("to", "name"), CASES)
def test_a_mutated_checkpoint_is_read_or_refused(to, name):
    content = (whole(to) / name).read_bytes()

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(mutated(name, content))
    def check(data):
        with tempfile.TemporaryDirectory() as scratch:
            folder = shutil.copytree(whole(to), Path(scratch) / "checkpoint")
            (folder / name).write_bytes(data)
            try:
                config, params = load_params(str(folder))
            except UserError:
                return
            # What is read must be a T5 of the shapes that it claims.
            found = traverse_util.flatten_dict(params, sep="/")
            found = {name: leaf.shape for name, leaf in found.items()}
            assert found == parameter_shapes(T5Config(**config, dropout_rate=0.0))

    check()


def test_what_is_mutated_is_otherwise_read():
    for to in HEADERS:
        config, _ = load_params(str(whole(to)))
        assert config["emb_dim"] == 2
    assert (whole("hf") / hf.INDEX).exists()
