"""A vocabulary beside Hugging Face weights, so that transformers needs nothing but the folder.

`spiece.model` is what `T5Tokenizer` reads. `tokenizer.json` is the same for the fast tokenisers,
which `AutoTokenizer` prefers: transformers' own conversion of spiece.model knows neither bytes that
stand in for characters nor pieces that hold for a whole word, as the ids of items are.
"""

import base64
import json
import re
from collections.abc import Collection

from etils import epath
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from recalign.errors import UserError

VOCABULARY = "spiece.model"
FILES = (
    VOCABULARY,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SPECIAL = ("pad_token", "eos_token", "unk_token")  # of T5's ids 0, 1, 2
SENTINELS = 100
_SENTINEL = re.compile("\u2581?<extra_id_\\d+>")  # SeqIO and `recalign cache` make them pieces
_UNIGRAM, _BPE = 1, 2  # of SentencePiece's model types, those that transformers knows too
_SPACE = "\u2581"

Model = sentencepiece_model_pb2.ModelProto
Piece = Model.SentencePiece


def write(path: epath.Path, vocabulary: bytes) -> None:
    """Writes the files of a tokeniser.

    Args:
        path: the folder, which exists.
        vocabulary: a SentencePiece model with T5's special ids, with or without sentinels.

    Raises:
        UserError: it is none, or of a kind that transformers does not know.
    """
    model = _without_sentinels(vocabulary)
    (path / VOCABULARY).write_bytes(model.SerializeToString(deterministic=True))
    (path / "tokenizer.json").write_text(
        json.dumps(_fast(model), ensure_ascii=False), encoding="utf-8"
    )
    config = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": SENTINELS,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # a space before a sentinel is no piece, as in T5
        **dict(zip(SPECIAL, _special(model), strict=True)),
    }
    (path / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


def copy(source: epath.Path, path: epath.Path) -> None:
    """Copies the files of a tokeniser from one folder to another, as far as there are any."""
    for name in FILES:
        if (source / name).exists():
            (path / name).write_bytes((source / name).read_bytes())


def check_fits(vocabulary: bytes, rows: int) -> None:
    """Raises a UserError where the parameters have fewer rows than the vocabulary token ids."""
    needed = len(_without_sentinels(vocabulary).pieces) + SENTINELS
    if needed > rows:
        raise UserError(
            f"the vocabulary has {needed:,} token ids, sentinels included, but the parameters only "
            f"{rows:,} rows: it is not theirs"
        )


def count_added(vocabulary: bytes) -> tuple[int, int]:
    """How many pieces a vocabulary had, and how many it was extended by, which come after them."""
    pieces = _without_sentinels(vocabulary).pieces
    first = len(pieces)
    while first and pieces[first - 1].type == Piece.USER_DEFINED:
        first -= 1
    return first, len(pieces) - first


def _without_sentinels(vocabulary: bytes) -> Model:
    """The model as it was trained; transformers adds the sentinels itself."""
    try:
        model = Model.FromString(vocabulary)
    except DecodeError as error:
        raise UserError("the vocabulary is not a SentencePiece model") from error
    while model.pieces and _SENTINEL.fullmatch(model.pieces[-1].piece):
        del model.pieces[-1]
    spec = model.trainer_spec
    if (spec.pad_id, spec.eos_id, spec.unk_id) != (0, 1, 2):
        raise UserError("the vocabulary is not T5's: pad, eos and unk must have the ids 0, 1 and 2")
    if spec.model_type not in (_UNIGRAM, _BPE):
        raise UserError("the vocabulary is neither a unigram nor a byte-pair model")
    return model


def _special(model: Model) -> list[str]:
    return [piece.piece for piece in model.pieces[: len(SPECIAL)]]


def _fast(model: Model) -> dict:
    """`tokenizer.json`: gives the ids that SentencePiece gives.

    Source of the format: github.com/huggingface/tokenizers, `Tokenizer.to_str`.
    """
    pieces = [piece.piece for piece in model.pieces]
    whole = [piece.piece for piece in model.pieces if piece.type == Piece.USER_DEFINED]
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    special = _special(model)
    added = [*enumerate(special), *enumerate(sentinels, start=len(pieces))]
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    end = {"SpecialToken": {"id": special[1], "type_id": 0}}
    first, second = ([{"Sequence": {"id": name, "type_id": 0}}, end] for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, text in added
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []),
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "Prepend", "prepend": _SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern(set(whole))},
            "behavior": "Isolated",
            "invert": False,
        }
        if whole
        else None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {
                special[1]: {"id": special[1], "ids": [1], "tokens": [special[1]]},
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": (_bpe if model.trainer_spec.model_type == _BPE else _unigram)(model, sentinels),
    }


def _unigram(model: Model, sentinels: list[str]) -> dict:
    return {
        "type": "Unigram",
        "unk_id": model.trainer_spec.unk_id,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "vocab": [[p.piece, p.score] for p in model.pieces] + [[s, 0.0] for s in sentinels],
    }


def _bpe(model: Model, sentinels: list[str]) -> dict:
    """Byte pairs: SentencePiece merges to the piece of the best score, transformers by a list."""
    ids = {text: i for i, text in enumerate([*(p.piece for p in model.pieces), *sentinels])}
    scores = {p.piece: p.score for p in model.pieces if p.type == Piece.NORMAL}
    merges = []
    for piece in sorted(scores, key=lambda text: (-scores[text], ids[text])):
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [split for split in splits if scores.keys() >= set(split)]
        merges += sorted(known, key=lambda split: (ids[split[0]], ids[split[1]]))
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.trainer_spec.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": True,  # what the pattern has split off is a piece that no pair leads to
        "vocab": ids,
        "merges": merges,
    }


def pattern(texts: Collection[str]) -> str:
    """A regular expression for one of some texts, the longest that is there.

    Texts with the same endings share them, so that it stays short: hundred thousand ids of items
    are a dozen classes of digits.
    """
    tails: dict[str, set[str]] = {}
    for text in texts:
        if text:
            tails.setdefault(text[0], set()).add(text[1:])
    firsts: dict[str, list[str]] = {}
    for first in sorted(tails):
        firsts.setdefault(pattern(tails[first]), []).append(first)
    options = [
        (re.escape(same[0]) if len(same) == 1 else f"[{''.join(map(re.escape, same))}]") + rest
        for rest, same in firsts.items()
    ]
    if not options:
        return ""
    body = options[0] if len(options) == 1 and "" not in texts else f"(?:{'|'.join(options)})"
    return f"{body}?" if "" in texts else body
