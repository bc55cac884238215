"""A domain's own vocabulary."""

import dataclasses

import numpy as np
import pytest
import sentencepiece

from recalign import prompts
from recalign.domains import codes, vocabulary
from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.errors import UserError

PIECES = [f"\u2581{prompts.item_id(index, 60)}" for index in range(60)]


@pytest.fixture(scope="module")
def items():
    return assemble(toyshop.generate(20, 60), "toyshop").items


@pytest.fixture(scope="module")
def folder(items, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary")
    vocabulary.train(items, PIECES, 600, path)
    return path


@pytest.fixture
def pieces(folder):
    return sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))


def test_special_ids_are_those_of_t5(pieces):
    assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), pieces.bos_id()) == (0, 1, 2, -1)


def test_titles_survive_and_are_short(pieces, items):
    for title in items["title"]:
        ids = pieces.encode(title)
        assert pieces.decode(ids) == title
        assert 2 not in ids
        assert len(ids) <= 3 * len(title.split())


def test_every_item_id_is_one_piece(pieces, items):
    ids = [pieces.encode(prompts.item_id(index, len(items))) for index in range(len(items))]
    assert {len(tokens) for tokens in ids} == {1}
    assert len({tokens[0] for tokens in ids}) == len(items)
    history = " ".join(f"{prompts.item_id(index, len(items))};" for index in range(5))
    assert pieces.decode(pieces.encode(history)) == history
    assert len(pieces.encode(history)) == 10


def test_digits_stand_alone_and_unseen_characters_are_bytes(pieces):
    for piece in pieces.encode("No. 0123", out_type=str)[1:]:
        assert len(piece.lstrip("▁")) <= 1
    assert pieces.decode(pieces.encode("Crème 雪")) == "Crème 雪"
    assert 2 not in pieces.encode("Crème 雪")


def test_training_is_deterministic(items, folder, tmp_path):
    count = vocabulary.train(items, PIECES, 600, tmp_path)
    assert count <= 600 + len(items)
    assert (tmp_path / "spiece.model").read_bytes() == (folder / "spiece.model").read_bytes()


def test_a_size_that_no_vocabulary_has(items, tmp_path):
    with pytest.raises(UserError, match=r"--vocab_size 1000.*: no vocabulary can be trained"):
        vocabulary.train(items, [], 10**20, tmp_path)


def test_a_size_that_is_too_small(items, tmp_path):
    for size in (1, 10, 300):
        with pytest.raises(UserError, match=rf"--vocab_size {size} is too small.* alone are \d+;"):
            vocabulary.train(items, PIECES, size, tmp_path)


def test_copying(folder, items, tmp_path):
    count = vocabulary.copy(folder / "spiece.model", tmp_path)
    assert count <= 600 + len(items)
    assert (tmp_path / "spiece.model").read_bytes() == (folder / "spiece.model").read_bytes()


def test_the_public_vocabulary_can_be_copied(shared, tmp_path):
    assert vocabulary.copy(shared / "vocab" / "t5" / "spiece.model", tmp_path) == 32000


@pytest.mark.parametrize("method", ["random", "rkmeans"])
def test_the_public_vocabulary_is_extended_and_writes_all_else_as_before(
    shared, tmp_path, items, method
):
    path = shared / "vocab" / "t5" / "spiece.model"
    shop = assemble(toyshop.generate(20, 60), "toyshop")
    if method == "rkmeans":
        shop = dataclasses.replace(shop, codes=codes.make(method, np.eye(60), 2, 5, 0))
    ids, new = shop.item_ids, shop.id_pieces
    assert vocabulary.copy(path, tmp_path, new) == 32000 + len(new)
    old = sentencepiece.SentencePieceProcessor(str(path))
    own = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    assert own.id_to_piece([*range(32000)]) == old.id_to_piece([*range(32000)])
    texts = [*items["title"], *map(prompts.without_fields, prompts.RETRIEVAL + prompts.MIM)]
    assert own.encode(texts) == old.encode(texts)
    history = " ".join(f"{text} {title};" for text, title in zip(ids, items["title"], strict=True))
    pieces = own.encode(history, out_type=str)
    written = [piece for piece in pieces if piece in {*new}]
    assert "".join(written) == "".join(f"\u2581{text}" for text in ids)
    assert len(written) == sum(text.count("<") or 1 for text in ids)
    assert own.decode(own.encode(history)) == history
    # What is there already stays.
    path = tmp_path / "spiece.model"
    again = [*new, "\u2581<z_1>"]
    assert vocabulary.copy(path, tmp_path, again) == 32000 + len(again)


def test_copying_what_is_no_vocabulary(tmp_path, put):
    with pytest.raises(UserError, match="not a SentencePiece model"):
        vocabulary.copy(put("x.model", "hello"), tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        vocabulary.copy(tmp_path / "none.model", tmp_path)


def test_copying_a_vocabulary_with_other_special_ids(tmp_path, items):
    model = tmp_path / "other"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(items["title"]),
        model_prefix=str(model),
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"need \(0, 1, 2\)"):
        vocabulary.copy(model.with_suffix(".model"), tmp_path)
