"""A domain's own SentencePiece vocabulary."""

import io
import os
import re
from pathlib import Path

import pandas as pd
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from recalign import prompts
from recalign.errors import UserError

FILE_NAME = "spiece.model"


def copy(source: str | os.PathLike, folder: Path) -> int:
    """Copies a SentencePiece model, local or in a bucket, into a domain's folder.

    Returns:
      The number of its pieces.

    Raises:
      UserError: the file cannot be read, or is no SentencePiece model with T5's special ids.
    """
    try:
        model = epath.Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from error
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise UserError(f"{source}: not a SentencePiece model") from error
    specials = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if specials != (0, 1, 2):
        raise UserError(
            f"{source}: pad, eos and unk have the ids {specials}; T5 models need (0, 1, 2)"
        )
    (folder / FILE_NAME).write_bytes(model)
    return processor.get_piece_size()


def train(items: pd.DataFrame, size: int, folder: Path) -> int:
    """Trains a vocabulary on a catalogue and the prompts, into a domain's folder.

    A byte-pair model with T5's special ids: on a small catalogue it keeps whole words, where a
    unigram model of the same size drops them and writes twice as many tokens. Every item's id is
    one piece more, so that a model trained from scratch has a vector for each item, as conventional
    recommenders have. It reads items and templates only, never an event, and the same catalogue
    gives the same bytes. Bytes stand in for characters that it has no piece for, so that a title
    that comes later can still be written.

    Args:
      items: the catalogue in index order.
      size: the number of pieces beside the ids, at most; a small catalogue may give fewer.
      folder: gets `spiece.model`.

    Returns:
      The number of pieces, ids included.

    Raises:
      UserError: `size` is too small for the characters of the catalogue.
    """
    output = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(prompts.vocabulary_texts(items)),
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
    except RuntimeError as error:
        needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise UserError(
                f"--vocab_size {size} is too small: bytes, special pieces and the characters of "
                f"the catalogue alone are {needed[1]}; a thousand more give room for words"
            ) from error
        raise UserError(f"--vocab_size {size}: no vocabulary can be trained: {error}") from error
    model = sentencepiece_model_pb2.ModelProto.FromString(output.getvalue())
    for index in range(len(items)):
        model.pieces.add(
            piece=f"\u2581{prompts.item_id(index, len(items))}",
            type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED,
        )
    (folder / FILE_NAME).write_bytes(model.SerializeToString(deterministic=True))
    return len(model.pieces)
