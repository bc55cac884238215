"""Every sentence the model reads or must write.

The wording is this project's own: the paper's prompts were not published with it. A template is one
paraphrase of a question; `{history}` stands for the verbalised history, `{candidates}` for a list
of items, `{neighbours}`, in retrieval, for what others bought near the newest of the history, every
other field for one item. The first template of a list is the one used for
evaluation. User ids never appear.
"""

import re
from collections.abc import Iterator, Sequence

# Ends every item of a history. A title may hold commas and stops, but the item ids start with "#".
ITEM_END = ";"

RETRIEVAL = (
    "Bought so far, oldest first: {history} What is bought next?",
    "Purchase history: {history} Predict the next item.",
    "A customer chose these items in this order: {history} Which item follows?",
    "{history} Given these purchases, name the item that the customer will want next.",
    "Here is what someone bought, from first to last: {history} Recommend one item.",
)

RANKING = (
    "Bought so far, oldest first: {history} Candidates: {candidates} Which is bought next?",
    "Purchase history: {history} Choose the next item from these: {candidates}",
    "{history} After these purchases, one of the following was bought: {candidates} Which one?",
    "Candidates: {candidates} Past purchases, oldest first: {history} Which candidate follows?",
    "One of {candidates} is what this customer will want next: {history} Name it.",
)

# In the history of ratings, stars follow each item. Ratings are split at random, so that some of
# them may be later than the one that is asked for: nothing is said of when that was.
RATING = (
    "Ratings, oldest first: {history} How many stars for {item}?",
    "A customer's ratings: {history} Predict the rating of {item}.",
    "{history} Given these ratings, what does the customer give {item}?",
    "How is {item} rated by someone who rated as follows? {history}",
)
RATED = " rated "

# Masked items stand in the history as sentinels; the answer lists them in order.
MIM = (
    "Some items of this purchase history are hidden: {history} Which items are they?",
    "Fill in the missing purchases: {history}",
    "A customer's purchases in order, a few of them left out: {history} Name what is left out.",
    "{history} Recover the hidden items of this history.",
)

# Token spans of the history are hidden, ids and titles alike; the answer is T5's span corruption.
MLM = (
    "Complete the text of this purchase history: {history}",
    "Parts of this shopping record are unreadable: {history} Restore them.",
    "{history} Fill the gaps in this list of purchases.",
)

BPR = (
    "Bought so far, oldest first: {history} Which is bought next: {first} or {second}?",
    "Purchase history: {history} Does the customer prefer {first} or {second}?",
    "{history} After these purchases, choose between {first} and {second}.",
    "A customer chose these items in this order: {history} Of {first} and {second}, which follows?",
)

ITEM_FORMS = ("id", "title", "id_title")


def without_fields(template: str) -> str:
    """What a template says by itself."""
    return re.sub(r"\{\w+\}", "", template)


def item_id(index: int, num_items: int) -> str:
    """The text of an item's id: "#" and its index, with as many digits as the largest index."""
    return f"#{index:0{len(str(max(num_items - 1, 0)))}d}"


def item_text(form: str, id_text: str, title: str) -> str:
    """An item in one of `ITEM_FORMS`; an item without a title is written as its id."""
    if form == "id" or not title:
        return id_text
    return title if form == "title" else f"{id_text} {title}"


def vocabulary_texts(titles: Sequence[str]) -> Iterator[str]:
    """What a vocabulary for the catalogue must be able to write.

    Args:
      titles: of the catalogue, one an item in index order.

    Yields:
      Every item as id and title, and every template once per hundred items, so that in a small
      vocabulary the words of the questions are whole pieces too.
    """
    for index, title in enumerate(titles):
        yield item_text("id_title", item_id(index, len(titles)), title) + ITEM_END
    templates: Sequence[str] = RETRIEVAL + RANKING + RATING + MIM + MLM + BPR + (RATED,)
    for _ in range(1 + len(titles) // 100):
        yield from (without_fields(t) for t in templates)
