"""The tasks and mixtures that come with recalign, and those of every domain prepared here."""

from recalign.tasks import beauty, sports, toys, toyshop

from recalign.samples.registry import register_prepared_domains

__all__ = ["beauty", "sports", "toys", "toyshop"]

register_prepared_domains()
