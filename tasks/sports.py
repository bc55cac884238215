"""Amazon 2014 Sports and Outdoors, 5-core: `recalign prepare recbole --name sports …`."""

from recalign.samples.registry import register_domain

register_domain("sports")
