"""The embedded domain: `recalign prepare toyshop`."""

from recalign.samples.registry import register_domain

register_domain("toyshop")
