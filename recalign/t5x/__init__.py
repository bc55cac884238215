"""All that knows T5X; it is optional, since it is not on PyPI."""
