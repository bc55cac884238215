"""Amazon's reviews as McAuley's group publishes them: the 2014 and the 2023 edition.

2014 (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html): `reviews_X_5.json.gz`, a JSON
object a line, and `meta_X.json.gz`, a Python literal a line. The 2018 edition names its fields
likewise. 2023 (https://amazon-reviews-2023.github.io): a JSON object a line in both files.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from recalign.domains import catalogue, cleaning, raw
from recalign.domains.readers import jsonlines, opening
from recalign.domains.source import ShardedSource, Source

# As RecBole's copies of the 2014 edition write them.
CATEGORY_JOINT = " > "


@dataclasses.dataclass(frozen=True)
class Edition:
    """The columns of an edition's two files, and how its metadata are written.

    Attributes:
      reviews: the columns of the reviews, named after their fields.
      meta: the columns of the metadata.
      chosen: {role: column}, and "catalogue_item", the metadata's column of item ids.
      literals: whether the metadata may hold Python literals.
    """

    reviews: Mapping[str, jsonlines.Field]
    meta: Mapping[str, jsonlines.Field]
    chosen: Mapping[str, str]
    literals: bool = False


EDITION_2014 = Edition(
    reviews={
        "reviewerID": jsonlines.text("reviewerID", required=True),
        "asin": jsonlines.text("asin", required=True),
        "overall": jsonlines.anything("overall"),
        "unixReviewTime": jsonlines.anything("unixReviewTime"),
    },
    meta={
        "asin": jsonlines.text("asin", required=True),
        "title": jsonlines.text("title"),
        "brand": jsonlines.text("brand"),
        "categories": jsonlines.text("categories", "category", joint=CATEGORY_JOINT),
        "description": jsonlines.text("description"),
    },
    chosen={
        "user": "reviewerID",
        "item": "asin",
        "timestamp": "unixReviewTime",
        "rating": "overall",
        "title": "title",
        "brand": "brand",
        "categories": "categories",
    },
    literals=True,
)

EDITION_2023 = Edition(
    reviews={
        "user_id": jsonlines.text("user_id", required=True),
        "parent_asin": jsonlines.text("parent_asin", "asin", required=True),
        "rating": jsonlines.anything("rating"),
        "timestamp": jsonlines.anything("timestamp"),
    },
    meta={
        "parent_asin": jsonlines.text("parent_asin", "asin", required=True),
        "title": jsonlines.text("title"),
        "store": jsonlines.text("store"),
        "categories": jsonlines.text("categories", joint=CATEGORY_JOINT),
        "description": jsonlines.text("description"),
    },
    chosen={
        "user": "user_id",
        "item": "parent_asin",
        "timestamp": "timestamp",
        "rating": "rating",
        "title": "title",
        "brand": "store",
        "categories": "categories",
    },
)


def read(
    edition: Edition, reviews: Path, meta: Path | None = None, all_items: bool = False
) -> raw.RawDomain:
    """Reads reviews and, if there is one, the file of metadata.

    The metadata of a category tell of many times the items that a 5-core file of reviews holds: by
    default only the items that were reviewed make the catalogue, as in the field's published sets.

    Args:
      edition: how the files are written.
      reviews: one object a review; perhaps in parts (`opening.find_parts`).
      meta: one object an item, likewise.
      all_items: makes every item of `meta` a part of the catalogue.

    Returns:
      The domain in the source's terms: times are in seconds in 2014, in milliseconds in 2023.

    Raises:
      UserError: naming file and line of what is wrong.
    """
    domain = raw.RawDomain()
    raw.read_interactions(jsonlines.read(reviews, edition.reviews), edition.chosen, domain)
    if meta is not None:
        read_meta(edition, meta, all_items, domain)
    return domain


def read_meta(edition: Edition, meta: Path, all_items: bool, domain: raw.RawDomain) -> None:
    """Sets the item table of a domain, whose interactions are there; arguments as for `read`."""
    reviewed = set(domain.interactions["item"].unique())
    # The first field is the id.
    keep = (lambda row: True) if all_items else lambda row: cleaning.trim(row[0]) in reviewed
    table = jsonlines.read(meta, edition.meta, edition.literals, keep)
    catalogue.read_items(table, edition.chosen, domain)


def shard_2023(reviews: Path, meta: Path | None, all_items: bool) -> ShardedSource:
    """The edition of 2023, with the reviews to be read part by part; arguments as for `read`."""
    read_items = meta and functools.partial(read_meta, EDITION_2023, meta, all_items)
    parts = opening.find_parts(reviews)
    return ShardedSource(reviews, parts, _read_reviews_2023, EDITION_2023.chosen, read_items)


def _read_reviews_2023(part: Path) -> Source:
    return jsonlines.read(part, EDITION_2023.reviews)
