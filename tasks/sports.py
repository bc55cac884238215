"""Amazon 2014 Sports and Outdoors, 5-core: `recalign prepare amazon2014 --name sports …`."""

from recalign.samples.registry import register_domain

register_domain("sports")
