"""The tokens of a catalogue's texts, kept beside its domain: of a large one they take minutes.

A file a way to write the items, `DATA_DIR/NAME/tokens/HASH.npz`. The hash is of all that decides on
the tokens: the texts and the vocabulary.
"""

import hashlib
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import seqio

from recalign.files import in_bucket, replacing

log = logging.getLogger(__name__)

FOLDER = "tokens"
# What a file holds; another number when it holds something else.
_FORMAT = 1


class CatalogueTokens(NamedTuple):
    """What a vocabulary makes of a catalogue of n items.

    Attributes:
      target: int32[n, L], the tokens of each target and its end, 0 padded; of one that is `alike`
        they go on with the item's id.
      alike: bool[n], whether a target has the tokens of another one.
      history: int32[n], how many tokens each item of a history has.
    """

    target: np.ndarray
    alike: np.ndarray
    history: np.ndarray


def tokens_of(
    ids: Sequence[str],
    target: Sequence[str],
    history: Sequence[str],
    end: Sequence[int],
    vocabulary: seqio.SentencePieceVocabulary,
    folder: os.PathLike,
) -> CatalogueTokens:
    """The tokens that are kept, or else those that are made, and kept if they can be.

    Args:
      ids: of the items.
      target: each as the model must write it.
      history: each as it stands in a history.
      end: the tokens that end a target.
      vocabulary: writes the tokens.
      folder: of the domain; in one in a bucket nothing is kept.
    """
    if in_bucket(folder):
        return _tokenise(ids, target, history, end, vocabulary)
    digest = hashlib.sha256(f"{_FORMAT} {len(ids)} {end}".encode())
    digest.update(vocabulary.sp_model)
    for texts in (ids, target, history):
        digest.update("\0".join(texts).encode())
    path = Path(folder) / FOLDER / f"{digest.hexdigest()[:16]}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return CatalogueTokens(*(kept[name] for name in CatalogueTokens._fields))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged and made again: %s", path, error)
    made = _tokenise(ids, target, history, end, vocabulary)
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, **made._asdict())
    except OSError as error:
        log.info("%s: tokens cannot be kept, and are made each time: %s", folder, error)
    return made


def _tokenise(
    ids: Sequence[str],
    target: Sequence[str],
    history: Sequence[str],
    end: Sequence[int],
    vocabulary: seqio.SentencePieceVocabulary,
) -> CatalogueTokens:
    encode = vocabulary.tokenizer.encode
    tokens = encode([*target])
    counts = Counter(map(tuple, tokens))
    alike = np.array([counts[tuple(sequence)] > 1 for sequence in tokens], bool)
    for item in np.flatnonzero(alike):
        tokens[item] = encode(tell_apart(target[item], ids[item]))
    lengths = np.array([len(sequence) for sequence in encode([*history])], np.int32)
    return CatalogueTokens(_pad([[*sequence, *end] for sequence in tokens]), alike, lengths)


def tell_apart(target: str, item_id: str) -> str:
    """A target that is written like another one, with what is the item's alone."""
    return f"{target} {item_id}"


def _pad(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Sequences of token ids as int32[n, L], 0 padded to the longest."""
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.zeros((len(lengths), lengths.max(initial=0)), np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return padded
