"""Domains: a catalogue of items and the interactions of users with it.

Readers (`recbole`, `table`, `amazon`, `movielens`, `toyshop`) return a `RawDomain` in the source's
own terms; `assemble` turns it into a `Domain` (chronological order, item indices, leave-one-out
splits), and `sharded` does so where memory does not hold one; `storage` puts it on disk and reads
it back, and `records` writes what SeqIO reads. Nothing here imports TensorFlow or JAX.
"""

from recalign.domains.domain import Domain, Sequences, Split
from recalign.domains.storage import data_dir, fingerprint, list_prepared, load, statistics_of

__all__ = [
    "Domain",
    "Sequences",
    "Split",
    "data_dir",
    "fingerprint",
    "list_prepared",
    "load",
    "statistics_of",
]
