"""Parameters on disk: one module for each format, each streaming tensor by tensor."""
