"""Samples of every form of ids, as `recalign tasks` shows them."""

import re

import pytest
import sentencepiece

from tests.commands import run
from tests.samples.reading import read
from tests.samples.shops import prepared

FORMS = {
    "digits": [],
    "tokens": ["--item_tokens"],
    "pq": ["--item_tokens", "--item_ids", "pq", "--id_codes", "2x6"],
    "rkmeans": ["--item_tokens", "--item_ids", "rkmeans", "--id_codes", "3x4"],
}


@pytest.fixture(scope="module", params=FORMS)
def shop(request, shared, tmp_path_factory):
    """The form, its domain on T5's vocabulary, and the data folder."""
    folder = tmp_path_factory.mktemp(request.param)
    options = ["--users", "20", "--items", "40", *FORMS[request.param]]
    options += ["--vocabulary", str(shared / "vocab/t5/spiece.model")]
    return request.param, prepared("forms", folder, "toyshop", *options), folder


def test_targets_are_ids_and_each_part_is_a_token(shop):
    form, domain, folder = shop
    ids = domain.item_ids.tolist()
    output = run("tasks", "forms_retrieval", "--examples", 5, "--data_dir", folder)
    found = re.findall(r"targets \((\d+) tokens\): (\S+)", output)
    assert len(found) == 5
    for tokens, target in found:
        assert target in ids
        if form != "digits":
            assert int(tokens) == 1 + (target.count("<") or 1)  # EOS
    assert found[0][1].startswith("#" if form in ("digits", "tokens") else "<a_")


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "bpr", "mim"])
def test_no_id_is_cut_or_has_lost_a_part(shop, kind):
    form, domain, _ = shop
    ids = {*domain.item_ids}
    pattern = r"#\d+" if form in ("digits", "tokens") else r"(?:<[a-d]_\d+>)+"
    seen = 0
    for sample in read(f"forms_{kind}", "validation"):
        written = re.findall(pattern, f"{sample['inputs']} {sample['targets']}")
        assert {*written} <= ids
        seen += len(written)
    assert seen > 40


def test_all_pieces_of_t5_are_where_they_were(shop, shared):
    form, domain, _ = shop
    base = sentencepiece.SentencePieceProcessor(str(shared / "vocab/t5/spiece.model"))
    own = sentencepiece.SentencePieceProcessor(str(domain.path / "spiece.model"))
    assert own.get_piece_size() - 32_000 == (0 if form == "digits" else len(domain.id_pieces))
    assert own.id_to_piece([*range(32_000)]) == base.id_to_piece([*range(32_000)])
