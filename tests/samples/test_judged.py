"""Which tasks of a mixture are judged, and what a model must write for them."""

import re

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.samples import judged
from recalign.samples.items import item_texts

LENGTHS = {"inputs": 128, "targets": 32}


def test_what_is_only_learned_from_is_not_judged(rated):
    name = "ratedshop_aligned"
    kinds = [f"ratedshop_{kind}" for kind in ("ranking", "rating", "retrieval")]
    found = judged.examples(name, LENGTHS, "test", num_examples=2)
    assert [(examples.task, len(examples)) for examples in found] == [(kind, 2) for kind in kinds]
    for kind in kinds:
        [alone] = judged.examples(name, LENGTHS, "test", num_examples=1, task=kind)
        assert alone.task == kind
    known = re.escape(", ".join(kinds))
    with pytest.raises(UserError, match=f"no task 'ratedshop_mim' .*it has: {known}$"):
        judged.examples(name, LENGTHS, "test", task="ratedshop_mim")
    with pytest.raises(UserError, match="there is nothing to evaluate"):
        judged.examples("ratedshop_auxiliary", LENGTHS, "test")


def test_items_must_be_written_where_a_task_asks_for_them(rated):
    folder = rated.path.parent
    for name in ("aligned", "retrieval_only", "ranking_only"):
        tokens, path = judged.catalogue(f"ratedshop_{name}")
        np.testing.assert_array_equal(tokens, item_texts("ratedshop", str(folder)).target_tokens)
        assert path == rated.path
    for name in ("auxiliary", "rating_only"):
        assert judged.catalogue(f"ratedshop_{name}") is None
