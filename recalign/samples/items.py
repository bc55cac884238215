"""The catalogue as the model reads and writes it: texts, token counts and target sequences."""

import bisect
import dataclasses
import functools
import json
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import gin
import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from recalign import domains, prompts
from recalign.domains import vocabulary
from recalign.errors import UserError, check_positive
from recalign.files import read_bytes
from recalign.samples.catalogue_tokens import tell_apart, tokens_of

T5_VOCABULARY = vocabulary.T5
SENTINELS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class ItemTexts:
    """The texts of a catalogue of n items; row i is the item with index i.

    Attributes:
      form: how an item is written in histories and questions, one of `prompts.ITEM_FORMS`.
      ids: str[n], the model's ids.
      titles: str[n], "" where there is none.
      mention: str[n], an item as it stands in a question.
      end_mark: what ends an item of a history.
      history: str[n], an item as it stands in a history, its end mark included.
      history_tokens: int32[n], how many tokens that is.
      target: str[n], an item as the model must write it; no two are written alike.
      target_tokens: int32[n, L], the tokens of `target` and `end`, 0 padded.
      end: int32[e], what ends a target: EOS, or nothing where every target ends by itself.
    """

    form: str
    ids: np.ndarray
    titles: np.ndarray
    mention: np.ndarray
    end_mark: str
    history: np.ndarray
    history_tokens: np.ndarray
    target: np.ndarray
    target_tokens: np.ndarray
    end: np.ndarray
    # What tasks ask again and again, each for every dataset that is made of it.
    _asked: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def target_lengths(self) -> np.ndarray:
        """int32[n], how many tokens each target has, without its end."""
        return np.count_nonzero(self.target_tokens, axis=1).astype(np.int32) - len(self.end)

    def most_tokens(self, marks: Collection[str], vocabulary: seqio.Vocabulary) -> np.ndarray:
        """int32[n], the most tokens of an item that one of some marks follows.

        Args:
          marks: what stands after a mention without a space, such as "?"; may be "".
          vocabulary: counts; its pieces never cross a space, so that the last word decides.
        """
        key = frozenset(marks)
        if key not in self._asked:
            self._asked[key] = self._count_most_tokens(key, vocabulary)
        return self._asked[key]

    def _count_most_tokens(
        self, marks: Collection[str], vocabulary: seqio.Vocabulary
    ) -> np.ndarray:
        last = [text.rpartition(" ")[2] for text in self.mention]

        def count(mark: str) -> np.ndarray:
            words = vocabulary.tokenizer.encode([word + mark for word in last])
            return np.array([len(word) for word in words], np.int32)

        others = {*marks} - {self.end_mark}
        if not others:
            return self.history_tokens
        more = np.max([count(mark) for mark in others], axis=0) - count(self.end_mark)
        return self.history_tokens + np.maximum(more, 0)

    def shorten(self, room: int, marks: Collection[str], vocabulary: seqio.Vocabulary) -> Self:
        """The same catalogue, its titles cut where an item takes more than so many tokens.

        Of a title the words that fit are kept, or what fits of a first word that is too long; where
        nothing does, the item is written as its id. An id is never cut, and so may still be longer.

        Args:
          room: the tokens, a mark included.
          marks: what may follow an item, see `most_tokens`.
          vocabulary: counts tokens.
        """
        key = room, frozenset(marks)
        if key not in self._asked:
            self._asked[key] = self._shorten(room, marks, vocabulary)
        return self._asked[key]

    def _shorten(self, room: int, marks: Collection[str], vocabulary: seqio.Vocabulary) -> Self:
        too_long = np.flatnonzero(self.most_tokens(marks, vocabulary) > room)
        if not len(too_long):
            return self
        titles, mention, history = self.titles.copy(), self.mention.copy(), self.history.copy()
        tokens = self.history_tokens.copy()
        for item in too_long:

            def write(title: str, id_text: str = self.ids[item]) -> str:
                return prompts.item_text(self.form, id_text, title)

            def fits(title: str, write: Callable = write) -> bool:
                return all(len(vocabulary.encode(write(title) + mark)) <= room for mark in marks)

            titles[item] = longest_beginning(titles[item], fits)
            mention[item] = write(titles[item])
            history[item] = mention[item] + self.end_mark
            tokens[item] = len(vocabulary.encode(history[item]))
        return dataclasses.replace(
            self, titles=titles, mention=mention, history=history, history_tokens=tokens
        )


def longest_beginning(title: str, fits: Callable[[str], bool]) -> str:
    """The most words of a title that fit; else the most characters of its first word; else ""."""

    def most(upper: int, beginning: Callable[[int], str]) -> str:
        sizes = range(1, upper + 1)
        return beginning(bisect.bisect_left(sizes, True, key=lambda n: not fits(beginning(n))))

    words = title.split()
    return most(len(words), lambda n: " ".join(words[:n])) or (
        most(len(words[0]), lambda n: words[0][:n]) if words else ""
    )


def domain_vocabulary(name: str, data_dir: str | None = None) -> seqio.SentencePieceVocabulary:
    """The vocabulary a domain was prepared with: its own, or else the public T5 one."""
    own = domains.data_dir(data_dir) / name / vocabulary.FILE_NAME
    if own.exists():
        return OwnVocabulary(str(own), read_bytes(own))
    return seqio.SentencePieceVocabulary(T5_VOCABULARY, extra_ids=SENTINELS)


class OwnVocabulary(seqio.SentencePieceVocabulary):
    """What a vocabulary's file holds now: SeqIO keeps for good what it once read of a path.

    So a domain that is prepared again with another vocabulary has another one, also in a process
    that has read the first.

    Args:
      path: of the file.
      model: its bytes.
    """

    def __init__(self, path: str, model: bytes):
        super().__init__(path, extra_ids=SENTINELS)
        self.model = model

    def __eq__(self, other: object) -> bool:
        """By what they hold: domains that share a vocabulary have copies of it, and are mixed."""
        return isinstance(other, OwnVocabulary) and self.model == other.model

    @property
    def sp_model(self) -> bytes:
        """With sentinels, as SeqIO adds them."""
        return _with_sentinels(self.model)[0]

    @property
    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """That of `sp_model`."""
        return _with_sentinels(self.model)[1]

    def load_model(self) -> None:
        """Reads it now."""
        _with_sentinels(self.model)


@functools.lru_cache(maxsize=8)
def _with_sentinels(model: bytes) -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    extended = vocabulary.Model.FromString(model)
    for number in reversed(range(SENTINELS)):
        extended.pieces.add(
            piece=f"\u2581<extra_id_{number}>",
            score=0.0,
            type=vocabulary.Model.SentencePiece.USER_DEFINED,
        )
    written = extended.SerializeToString()
    return written, sentencepiece.SentencePieceProcessor(model_proto=written)


def check_readable(vocabulary: seqio.Vocabulary, owner: str) -> None:
    """Raises a UserError if a vocabulary, which is not read before it is used, cannot be read."""
    try:
        vocabulary.vocab_size  # noqa: B018 (reads the file)
    except tf.errors.OpError as error:
        raise UserError(
            f"the vocabulary of {owner} cannot be read ({error.message}): prepare the domain with "
            "--vocabulary FILE, or with --vocab_size N for one of its own"
        ) from error


@gin.configurable(module="recalign.samples")
def item_texts(
    name: str,
    data_dir: str | None = None,
    history_form: str = "id_title",
    target_form: str = "id",
    max_title_words: int | None = None,
    add_eos: bool = True,
    end_mark: str = prompts.ITEM_END,
) -> ItemTexts:
    """Writes the catalogue of a prepared domain as text.

    Args:
      name: the domain.
      data_dir: where prepared domains live; by default as for every command.
      history_form: how an item is written in histories and questions, one of `prompts.ITEM_FORMS`.
      target_form: how the model must write an item, one of `prompts.ITEM_FORMS`. The id is the
        default: it is short, and unique as titles are not. Titles that the vocabulary writes alike
        are followed by the id.
      max_title_words: longer titles are cut to this many words; None keeps them whole.
      add_eos: whether EOS ends an answer that is an item. Without it, training and search are
        spared a step that says nothing, and no item may be the beginning of another; ids are none.
      end_mark: what ends an item of a history. Ids alone need none, "", which makes histories of
        one piece an id half as long; titles do, since they may hold anything.

    Raises:
      UserError: an option has no such value, the domain is not prepared, or its vocabulary cannot
        be read.
    """
    for option, form in (("history_form", history_form), ("target_form", target_form)):
        check_form(f"item_texts.{option}", form)
    if max_title_words is not None:
        check_positive("item_texts.max_title_words", max_title_words)
    if history_form != "id" and not end_mark.strip():
        raise UserError(
            f"item_texts.end_mark is {end_mark!r}, but items with titles need one: "
            "leave it out, or set item_texts.history_form to 'id'"
        )
    folder = str(domains.data_dir(data_dir))
    content = json.dumps(domains.statistics_of(name, folder))
    return _item_texts(
        name, folder, content, history_form, target_form, max_title_words, add_eos, end_mark
    )


def check_form(option: str, form: str) -> None:
    """Raises a UserError unless a form is one of `prompts.ITEM_FORMS`."""
    if form not in prompts.ITEM_FORMS:
        raise UserError(f"{option} is {form!r}, but must be one of {prompts.ITEM_FORMS}")


# The statistics, `content`, tell what was prepared: items and vocabulary, by their hashes.
@functools.lru_cache(maxsize=8)
def _item_texts(
    name: str,
    data_dir: str,
    content: str,
    history_form: str,
    target_form: str,
    max_title_words: int | None,
    add_eos: bool,
    end_mark: str,
) -> ItemTexts:
    del content
    domain = domains.load(name, data_dir)
    titles = [" ".join(title.split()[:max_title_words]) for title in domain.items["title"]]
    ids = domain.item_ids
    vocabulary = domain_vocabulary(name, data_dir)
    check_readable(vocabulary, name)
    titles = _without_marks(titles, domain, vocabulary)

    def write(form: str) -> list[str]:
        pairs = zip(ids, titles, strict=True)
        return [prompts.item_text(form, id_text, title) for id_text, title in pairs]

    mention = write(history_form)
    history = [text + end_mark for text in mention]
    target = write(target_form)
    end = [vocabulary.eos_id] if add_eos else []
    tokens = tokens_of(ids, target, history, end, vocabulary, domain.path)
    for item in np.flatnonzero(tokens.alike):
        target[item] = tell_apart(target[item], ids[item])
    return ItemTexts(
        form=history_form,
        ids=ids,
        titles=np.array(titles, dtype=object),
        mention=np.array(mention, dtype=object),
        end_mark=end_mark,
        history=np.array(history, dtype=object),
        history_tokens=tokens.history,
        target=np.array(target, dtype=object),
        target_tokens=tokens.target,
        end=np.array(end, np.int32),
    )


def _without_marks(
    titles: Sequence[str], domain: domains.Domain, vocabulary: seqio.SentencePieceVocabulary
) -> list[str]:
    """Titles that have no token of an id or a sentinel: what reads like one is two words.

    "Lipstick #127" would name item 127, and "<extra_id_0>" a hidden one; "# 127" does not.
    """
    # Vocabularies bring text into this form before they look for pieces.
    read = [title if title.isascii() else unicodedata.normalize("NFKC", title) for title in titles]
    # As ids begin, codes and sentinels.
    suspects = [row for row, title in enumerate(read) if "#" in title or "<" in title]
    if not suspects:
        return list(titles)
    tokenizer, found = vocabulary.tokenizer, list(titles)
    unknown = tokenizer.unk_id()
    marks = {piece for piece in domain.id_pieces if tokenizer.piece_to_id(piece) != unknown}
    marks |= {tokenizer.id_to_piece(vocabulary.vocab_size - 1 - n) for n in range(SENTINELS)}
    for row in suspects:
        title = read[row]
        for mark in marks.intersection(tokenizer.encode(title, out_type=str)):
            word = mark.removeprefix("\u2581")
            found[row] = title = title.replace(word, f"{word[0]} {word[1:]}")
    return found
