"""What is read and tokenised at a start: a prepared domain once a process, its catalogue once."""

import dataclasses

import numpy as np
import pytest
import sentencepiece

from recalign.domains import storage
from recalign.domains.readers import toyshop
from recalign.files import read_parquet
from recalign.samples import catalogue_tokens, inputs, items, judged
from recalign.samples.items import item_texts
from tests.samples.shops import prepared

LENGTHS = {"inputs": 192, "targets": 32}


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """A shop with its own vocabulary, in which each title is that of three items."""
    folder = tmp_path_factory.mktemp("kept")
    raw = toyshop.generate(users=30, items=30)
    raw.items["title"] = [f"toy number {row % 10}" for row in range(30)]
    raw.interactions.to_csv(folder / "events.csv", index=False)
    raw.items.to_csv(folder / "items.csv", index=False)
    source = ["--interactions", folder / "events.csv", "--items", folder / "items.csv"]
    columns = ["--catalogue_item_column", "key", "--vocab_size", "400"]
    return prepared("keptshop", folder, "table", *map(str, source), *columns)


@pytest.fixture
def tokenised(monkeypatch):
    """Grows with every list of texts that is tokenised."""
    found, encode = [], sentencepiece.SentencePieceProcessor.encode

    def counted(self, texts, *arguments, **options):
        found.append(texts)
        return encode(self, texts, *arguments, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "encode", counted)
    return found


def texts_anew(domain, **options):
    """The texts as a process that begins has them."""
    items._item_texts.cache_clear()
    return item_texts(domain.name, str(domain.path.parent), **options)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        if field.init:
            first, second = getattr(one, field.name), getattr(other, field.name)
            np.testing.assert_array_equal(first, second, err_msg=field.name)


@pytest.mark.parametrize(
    "options",
    [{}, {"target_form": "title", "add_eos": False}, {"history_form": "id", "end_mark": ""}],
)
def test_a_catalogue_is_tokenised_by_the_first_process_alone(domain, tokenised, options):
    first = texts_anew(domain, **options)
    assert tokenised
    if options.get("target_form") == "title":  # all are written alike
        assert first.target[3] == f"{first.titles[3]} {first.ids[3]}"
    tokenised.clear()
    assert_same(texts_anew(domain, **options), first)
    assert tokenised == []
    texts_anew(domain, **options, max_title_words=1)
    assert bool(tokenised) == (options.get("history_form") != "id")  # other texts, other tokens


def test_what_is_damaged_or_cannot_be_kept_is_made_again(domain, tokenised, monkeypatch, caplog):
    first = texts_anew(domain)
    for path in (domain.path / catalogue_tokens.FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    tokenised.clear()
    assert_same(texts_anew(domain), first)
    assert tokenised
    assert "is damaged and made again" in caplog.text
    tokenised.clear()
    assert_same(texts_anew(domain), first)
    assert tokenised == []

    def refuse(path):
        raise OSError("read-only")

    monkeypatch.setattr(catalogue_tokens, "replacing", refuse)
    assert_same(texts_anew(domain, max_title_words=2), texts_anew(domain, max_title_words=2))
    assert len(tokenised) >= 4  # targets and histories, twice


def test_at_a_start_a_domain_is_read_once_and_no_word_is_tokenised_twice(
    domain, tokenised, monkeypatch
):
    reads = []
    monkeypatch.setattr(
        storage, "read_parquet", lambda path: reads.append(path.name) or read_parquet(path)
    )
    storage._read.cache_clear()
    items._item_texts.cache_clear()

    def start():
        inputs.train_batches("keptshop_bpr", LENGTHS, 2, 0)  # asks "…, first or second?"
        judged.examples("keptshop_retrieval_only", LENGTHS, "validation", num_examples=2)

    start()
    assert sorted(reads) == ["interactions.parquet", "items.parquet"]
    assert len({*map(tuple, tokenised)}) == len(tokenised) > 0
    tokenised.clear()
    start()
    assert len(reads) == 2
    assert tokenised == []
