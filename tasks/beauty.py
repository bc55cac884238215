"""Amazon 2014 Beauty, 5-core: `recalign prepare recbole --name beauty …`."""

from recalign.samples.registry import register_domain

register_domain("beauty")
