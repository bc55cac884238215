"""Amazon 2014 Toys and Games, 5-core: `recalign prepare recbole --name toys …`."""

from recalign.samples.registry import register_domain

register_domain("toys")
