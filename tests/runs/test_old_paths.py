"""Configurations that name modules where they once were."""

import importlib

import pytest

from recalign.runs.old_paths import MOVED, SPLIT, translate

MODULES = [*MOVED.values(), *(path for parts in SPLIT.values() for path in parts.values())]


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("recalign.t5x.")])
def test_every_module_is_where_the_table_says(module):
    importlib.import_module(module)


def test_bindings_keep_their_names():
    old = (
        "from __gin__ import dynamic_registration\n"
        "from recalign import runs\n"
        "from recalign.engine import network\n"
        "from recalign.engine import retriever\n"
        "from recalign.engine import network as recalign_network\n"
        "runs.Run.model_dir = 'x'\n"
    )
    assert translate(old) == (
        "from __gin__ import dynamic_registration\n"
        "from recalign.runs import run as runs\n"
        "from recalign.engine.network import transformer as network\n"
        "from recalign.engine.search import retriever\n"
        "from recalign.engine.network import transformer as recalign_network\n"
        "runs.Run.model_dir = 'x'\n"
    )


def test_what_is_bound_in_a_module_that_was_split_goes_to_its_part():
    old = "from recalign.samples import preprocessors\npreprocessors.mim.mask_rate = 0.3\n"
    lines = translate(old).splitlines()
    assert "from recalign.samples import mim" in lines
    assert "mim.mim.mask_rate = 0.3" in lines
    assert "preprocessors" not in translate(old)


def test_today_s_paths_stay():
    text = "from recalign.samples import items\nfrom recalign.engine.search import retriever\n"
    assert translate(text) == text
