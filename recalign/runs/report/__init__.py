"""A page about runs: one file of HTML, with all that it needs in it."""

from recalign.runs.report.page import write, write_in

__all__ = ["write", "write_in"]
