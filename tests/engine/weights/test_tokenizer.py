"""A vocabulary beside Hugging Face weights: transformers reads it as SentencePiece does."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sentencepiece
from etils import epath

from recalign.domains import vocabulary
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from recalign.engine.weights import tokenizer
from recalign.engine.weights.conversion import convert, load_params
from recalign.engine.weights.growth import NewTokens, rows_for
from recalign.errors import UserError
from tests.engine.weights.test_hf import folder, logits

ITEMS = 300
PIECES = [f"\u2581#{index:03d}" for index in range(ITEMS)]
TEXTS = (
    "history: #000 Red car, #127 Blue car.",
    "#127",
    "(#127) #1279#128  #300",
    "  two  spaces ",
    "Ünïcode ½ ﬁ \uff21\uff22 \u200b — 日本語 ♥",
    "a<b\nc\td",
    "bought: <a_17><b_3>; <a_2><b_30> Red car; (<a_1>)",
    "",
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A domain's own vocabulary: byte pairs, bytes, and a piece for each item."""
    path = tmp_path_factory.mktemp("domain")
    words = ("Red", "Blue", "small", "wooden", "Car", "Train", "Doll", "Kite")
    rng = random.Random(0)
    titles = [" ".join(rng.choices(words, k=3)) for _ in range(ITEMS)]
    items = {"title": titles, "brand": [""] * ITEMS, "categories": [[]] * ITEMS}
    vocabulary.train(pd.DataFrame(items), PIECES, 400, path)
    return (path / vocabulary.FILE_NAME).read_bytes()


@pytest.fixture(scope="module")
def t5(shared):
    """The public one."""
    return (shared / "vocab/t5/spiece.model").read_bytes()


@pytest.fixture(scope="module")
def extended(shared, tmp_path_factory):
    """The public one, extended by ids that are codes."""
    path = tmp_path_factory.mktemp("extended")
    pieces = [f"\u2581<a_{n}>" for n in range(40)] + [f"<b_{n}>" for n in range(40)]
    vocabulary.copy(shared / "vocab/t5/spiece.model", path, pieces)
    return (path / vocabulary.FILE_NAME).read_bytes()


def with_sentinels(model):
    """As SeqIO gives it, and `recalign cache` keeps it."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for number in reversed(range(100)):
        proto.pieces.add(piece=f"\u2581<extra_id_{number}>", type=proto.pieces[-1].USER_DEFINED)
    return proto.SerializeToString()


def texts(model):
    """Sentences, pieces in a row, and characters in a row."""
    rng, processor = random.Random(1), sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    pieces = [p.replace("\u2581", " ") for p in pieces if not re.fullmatch("<0x..>", p)]
    characters = "abcdefghijklmnopqrstuvwxyz  #0123456789,.:ABCé½\t—日"
    yield from TEXTS
    for _ in range(300):
        yield "".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        yield "".join(rng.choices(characters, k=rng.randrange(1, 40)))


@pytest.mark.parametrize("which", ["own", "t5", "extended"])
@pytest.mark.parametrize("kind", ["AutoTokenizer", "T5Tokenizer"])
def test_transformers_gives_the_tokens_of_sentencepiece(tmp_path, request, which, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = request.getfixturevalue(which)
    tokenizer.write(epath.Path(tmp_path), with_sentinels(model))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    found = getattr(transformers, kind).from_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = processor.get_piece_size()
    assert len(found) == pieces + 100
    assert (found.pad_token_id, found.eos_token_id, found.unk_token_id) == (0, 1, 2)
    for text in texts(model):
        expected = processor.encode(text)
        assert found(text).input_ids == [*expected, 1], text
        if which == "own":  # an unknown piece is written in several ways, and here there is none
            assert found.decode(expected) == processor.decode(expected), text
    sentinels = found("red <extra_id_0> car <extra_id_99>").input_ids
    assert [i for i in sentinels if i >= pieces] == [pieces + 99, pieces]


def test_the_folder_alone_answers_in_transformers(tmp_path, own):
    """From parameters and vocabulary to text, and the numbers are the network's."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rows = 1024
    source = folder(tmp_path / "source", vocab_size=rows)
    convert(source, tmp_path / "hf", "hf", find_vocabulary=lambda weights: own)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.arange(2, 14).reshape(2, 6)
    start = torch.arange(2, 14).reshape(2, 6)[:, :4]
    with torch.no_grad():
        theirs = model(input_ids=tokens, decoder_input_ids=start).logits.numpy()
    np.testing.assert_allclose(logits(tmp_path / "hf"), theirs, rtol=1e-4, atol=1e-4)
    answer = model.generate(**found(["history: #127"], return_tensors="pt"), max_new_tokens=3)
    assert isinstance(found.decode(answer[0]), str)
    assert answer.max() < rows


def test_an_extended_model_answers_in_transformers(tmp_path, extended):
    """A T5 with item tokens: the same logits, and by constrained search the same items."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    first, number = tokenizer.count_added(extended)
    rows = rows_for(first, number)
    means = scipy.sparse.csr_matrix(np.random.default_rng(2).dirichlet(np.ones(9), number))
    means.resize(number, first)
    new = NewTokens(first, means)
    source = folder(tmp_path / "t5", vocab_size=32128, emb_dim=8)
    options = {"vocab_size": rows, "new": new, "find_vocabulary": lambda weights: extended}
    convert(source, tmp_path / "hf", "hf", **options)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    config, params = load_params(tmp_path / "hf")
    module = Transformer(T5Config(**config))
    texts = [f"<a_{a}><b_{b}>" for a in range(6) for b in range(0, 40, 7)]
    items = [found(text).input_ids for text in texts]
    assert all(len(item) == 3 for item in items)  # two tokens and EOS
    question = found("bought: <a_17><b_3> Red car; What is bought next?", return_tensors="pt")
    targets = torch.tensor(items[:1])
    with torch.no_grad():
        expected = theirs(**question, labels=targets).logits.numpy()
    inputs = np.asarray(question.input_ids)
    shifted = np.pad(np.asarray(targets), ((0, 0), (1, 0)))[:, :-1]
    tokens = (inputs, shifted, np.asarray(targets))
    ours = module.apply({"params": params}, *tokens, enable_dropout=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    def allowed(_, sofar):
        begun = sofar.tolist()[1:]
        going_on = [item[len(begun)] for item in items if item[: len(begun)] == begun != item]
        return going_on or [0]

    beams = {"num_beams": 10, "num_return_sequences": 10, "max_new_tokens": 3}
    answers = theirs.generate(
        **question, **beams, prefix_allowed_tokens_fn=allowed, length_penalty=0.0
    )
    wanted = [items.index(answer[1:].tolist()) for answer in answers]
    search = Inference(num_beams=10, length_multiple=8)
    model = CatalogueModel(module, Partitioner(), items, search)
    best = model.best(params, [inputs[0].astype(np.int32)], 10)
    assert best.items[0].tolist() == wanted


def test_sentinels_are_no_pieces_of_the_file(tmp_path, own):
    """They are what transformers adds itself."""
    written = []
    for number, model in enumerate((own, with_sentinels(own))):
        path = tmp_path / str(number)
        path.mkdir()
        tokenizer.write(epath.Path(path), model)
        written.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert written[0] == written[1]
    processor = sentencepiece.SentencePieceProcessor(model_proto=written[0]["spiece.model"])
    vocab = json.loads(written[0]["tokenizer.json"])["model"]["vocab"]
    assert len(vocab) == processor.get_piece_size() + 100
    assert vocab["<extra_id_0>"] == len(vocab) - 1


@pytest.mark.parametrize("seed", range(5))
def test_a_pattern_matches_its_texts_and_the_longest_of_them(seed):
    rng = random.Random(seed)
    texts = {"".join(rng.choices("ab.[", k=rng.randrange(1, 5))) for _ in range(12)}
    pattern = re.compile(tokenizer.pattern(texts))
    for _ in range(300):
        text = "".join(rng.choices("ab.[", k=6))
        longest = max((t for t in texts if text.startswith(t)), key=len, default=None)
        match = pattern.match(text)
        assert (match and match[0]) == longest, text


def test_the_pattern_of_many_ids_is_short():
    assert len(tokenizer.pattern({f"\u2581#{i:06}" for i in range(123_456)})) < 400


def test_a_vocabulary_that_is_none_or_another_s_is_refused(tmp_path, own):
    source = folder(tmp_path / "source")
    for model, message in (
        (own, "only 40 rows: it is not theirs"),
        (b"\xff\xff", "not a SentencePiece model"),
    ):
        with pytest.raises(UserError, match=message):
            convert(source, tmp_path / "out", "hf", find_vocabulary=lambda weights, m=model: m)
    assert not (tmp_path / "out").exists()
