"""The catalogue as the model reads and writes it: texts, token counts and target sequences."""

import dataclasses
import functools
from collections import Counter

import gin
import numpy as np
import seqio

from recalign import domains, prompts
from recalign.engine.search.trie import as_matrix
from recalign.errors import UserError

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
SENTINELS = 100


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """The texts of a catalogue of n items; row i is the item with index i.

    Attributes:
      history: str[n], an item as it stands in a history, its end mark included.
      history_tokens: int32[n], how many tokens that is.
      mention: str[n], an item as it stands in a question.
      target: str[n], an item as the model must write it; no two are written alike.
      target_tokens: int32[n, L], the tokens of `target`: EOS included, 0 padded.
    """

    history: np.ndarray
    history_tokens: np.ndarray
    mention: np.ndarray
    target: np.ndarray
    target_tokens: np.ndarray

    @property
    def target_lengths(self) -> np.ndarray:
        """int32[n], how many tokens each target has, without EOS."""
        return np.count_nonzero(self.target_tokens, axis=1).astype(np.int32) - 1


def domain_vocabulary(name: str, data_dir: str | None = None) -> seqio.SentencePieceVocabulary:
    """The vocabulary a domain was prepared with: its own, or else the public T5 one."""
    own = domains.data_dir(data_dir) / name / "spiece.model"
    path = str(own) if own.exists() else T5_VOCABULARY
    return seqio.SentencePieceVocabulary(path, extra_ids=SENTINELS)


@gin.configurable(module="recalign.samples")
def item_texts(
    name: str,
    data_dir: str | None = None,
    history_form: str = "id_title",
    target_form: str = "id",
    max_title_words: int | None = None,
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

    Raises:
      UserError: if a form is not one of the three, or the domain is not prepared.
    """
    for option, form in (("history_form", history_form), ("target_form", target_form)):
        if form not in prompts.ITEM_FORMS:
            raise UserError(
                f"item_texts.{option} is {form!r}, but must be one of {prompts.ITEM_FORMS}"
            )
    return _item_texts(
        name, str(domains.data_dir(data_dir)), history_form, target_form, max_title_words
    )


@functools.lru_cache(maxsize=8)
def _item_texts(
    name: str, data_dir: str, history_form: str, target_form: str, max_title_words: int | None
) -> ItemTexts:
    titles = [
        " ".join(title.split()[:max_title_words])
        for title in domains.load(name, data_dir).items["title"]
    ]
    ids = [prompts.item_id(index, len(titles)) for index in range(len(titles))]
    tokenizer = domain_vocabulary(name, data_dir).tokenizer

    def write(form: str) -> list[str]:
        pairs = zip(ids, titles, strict=True)
        return [prompts.item_text(form, id_text, title) for id_text, title in pairs]

    mention = write(history_form)
    history = [text + prompts.ITEM_END for text in mention]
    target = write(target_form)
    tokens = [tuple(sequence) for sequence in tokenizer.encode(target)]
    written_alike = Counter(tokens)
    target = [
        text if written_alike[sequence] == 1 else f"{text} {id_text}"
        for text, sequence, id_text in zip(target, tokens, ids, strict=True)
    ]
    return ItemTexts(
        history=np.array(history, dtype=object),
        history_tokens=np.array([len(t) for t in tokenizer.encode(history)], np.int32),
        mention=np.array(mention, dtype=object),
        target=np.array(target, dtype=object),
        target_tokens=as_matrix(tokenizer.encode(target, add_eos=True)),
    )
