"""Titles that read like an id or a sentinel: what is a mark stays one, and they stay titles."""

import numpy as np
import pytest

from recalign.domains.readers import toyshop
from recalign.samples.items import SENTINELS, domain_vocabulary, item_texts
from tests.samples.reading import read
from tests.samples.shops import prepared

ITEMS = 30
# Of catalogues of up to 100 items, and codes; the wide "#" is one to vocabularies.
TITLES = (
    "Lipstick #{other}",
    "#{own} again, #{other}9 too",
    "Shade \uff03{other}",
    "(#{other}) #{other}",
    "Fill <extra_id_0> in <extra_id_99>",
    "Row <a_1><b_0> seat <c_2>",
    "I <3 the #1 hit #",
)


@pytest.fixture(scope="module", params=["plain", "codes"])
def shop(request, tmp_path_factory):
    """Items whose titles name each other, in a vocabulary in which an id is one piece or three."""
    folder = tmp_path_factory.mktemp(request.param)
    raw = toyshop.generate(users=20, items=ITEMS)
    raw.items["title"] = [
        TITLES[row % len(TITLES)].format(own=f"{row:02d}", other=f"{(row * 7 + 3) % ITEMS:02d}")
        for row in range(ITEMS)
    ]
    raw.interactions.to_csv(folder / "events.csv", index=False)
    raw.items.to_csv(folder / "items.csv", index=False)
    source = ["--interactions", folder / "events.csv", "--items", folder / "items.csv"]
    options = ["--catalogue_item_column", "key", "--vocab_size", "500"]
    if request.param == "codes":
        options += ["--item_ids", "rkmeans", "--id_codes", "3x4"]
    domain = prepared(f"marked_{request.param}", folder, "table", *map(str, source), *options)
    return request.param, domain, folder


@pytest.mark.parametrize("form", ["id", "title", "id_title"])
def test_a_title_has_no_token_of_an_id_or_a_sentinel(shop, form):
    kind, domain, folder = shop
    texts = item_texts(domain.name, str(folder), history_form=form)
    vocabulary = domain_vocabulary(domain.name, str(folder))
    first = vocabulary.vocab_size - SENTINELS - len(domain.id_pieces)
    for written, target in zip(texts.history, texts.target_tokens, strict=True):
        marks = [token for token in vocabulary.encode(written) if token >= first]
        assert marks == ([] if form == "title" else [token for token in target if token >= first])
    if kind == "plain":
        assert any(title.startswith("Lipstick # ") for title in texts.titles)
    else:
        assert "Row < a_1>< b_0> seat < c_2>" in texts.titles


def test_titles_that_the_vocabulary_takes_for_none_are_as_they_were(shop):
    _, domain, folder = shop
    texts = item_texts(domain.name, str(folder))
    before = domain.items["title"].to_numpy()
    plain = np.array(["#1 hit" in title for title in before])
    assert plain.any()
    np.testing.assert_array_equal(texts.titles[plain], before[plain])


def test_each_sentinel_of_a_question_is_answered(shop):
    _, domain, folder = shop
    vocabulary = domain_vocabulary(domain.name, str(folder))
    first = vocabulary.vocab_size - SENTINELS
    for kind in ("mim", "mlm"):
        for sample in read(f"{domain.name}_{kind}", "train"):
            asked, answered = (
                [token for token in vocabulary.encode(sample[side]) if token >= first]
                for side in ("inputs", "targets")
            )
            assert asked
            assert len({*asked}) == len(asked)
            assert {*asked} <= {*answered}
