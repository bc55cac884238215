"""A domain's own SentencePiece vocabulary."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from recalign import prompts
from recalign.errors import UserError
from recalign.files import locate, read_bytes

FILE_NAME = "spiece.model"
T5 = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"

Model = sentencepiece_model_pb2.ModelProto


def copy(source: str | os.PathLike, folder: Path, pieces: Sequence[str] = ()) -> int:
    """Copies a SentencePiece model, local or in a bucket, into a domain's folder.

    Args:
      source: the model, which stays as it is: its pieces keep their numbers, and every text without
        new pieces is written as before.
      folder: gets `spiece.model`.
      pieces: those that it is extended by, but for what it has already. They come after its own, so
        that SeqIO's and transformers' sentinels, which come after all, are what they were.

    Returns:
      The number of its pieces, new ones included.

    Raises:
      UserError: the file cannot be read, or is no SentencePiece model with T5's special ids.
    """
    model = read_bytes(locate(source))
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise UserError(f"{source}: not a SentencePiece model") from error
    specials = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if specials != (0, 1, 2):
        raise UserError(
            f"{source}: pad, eos and unk have the ids {specials}; T5 models need (0, 1, 2)"
        )
    if not pieces:
        (folder / FILE_NAME).write_bytes(model)
        return processor.get_piece_size()
    extended = Model.FromString(model)
    _add(extended, pieces)
    return _write(extended, folder)


def train(items: pd.DataFrame, pieces: Sequence[str], size: int, folder: Path) -> int:
    """Trains a vocabulary on a catalogue and the prompts, into a domain's folder.

    A byte-pair model with T5's special ids: on a small catalogue it keeps whole words, where a
    unigram model of the same size drops them and writes twice as many tokens. What ids are written
    in comes after these pieces, so that a model trained from scratch has a vector for each item, as
    conventional recommenders have, or for each code. It reads items and templates only, never an
    event, and the same catalogue gives the same bytes. Bytes stand in for characters that it has no
    piece for, so that a title that comes later can still be written.

    Args:
      items: the catalogue in index order.
      pieces: those of ids, see `Domain.id_pieces`.
      size: the number of pieces beside these, at most; a small catalogue may give fewer.
      folder: gets `spiece.model`.

    Returns:
      The number of pieces, ids included.

    Raises:
      UserError: `size` is too small for the characters of the catalogue.
    """
    output = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(prompts.vocabulary_texts(items["title"])),
            model_writer=output,
            model_type="bpe",
            vocab_size=max(size, 8),  # with less it fails before it tells how many it needs
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:  # a size of too many digits
        needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise UserError(
                f"--vocab_size {size} is too small: bytes, special pieces and the characters of "
                f"the catalogue alone are {needed[1]}; a thousand more give room for words"
            ) from error
        raise UserError(f"--vocab_size {size}: no vocabulary can be trained: {error}") from error
    model = Model.FromString(output.getvalue())
    _add(model, pieces)
    return _write(model, folder)


def _add(model: Model, pieces: Sequence[str]) -> None:
    """Adds pieces, which are kept whole wherever they stand."""
    known = {piece.piece for piece in model.pieces}
    for piece in pieces:
        if piece not in known:
            model.pieces.add(piece=piece, type=Model.SentencePiece.USER_DEFINED)


def _write(model: Model, folder: Path) -> int:
    (folder / FILE_NAME).write_bytes(model.SerializeToString(deterministic=True))
    return len(model.pieces)
