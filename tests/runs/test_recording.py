"""What the log tells of an evaluation."""

from recalign.evaluation.outcomes import Evaluated
from recalign.runs.directory import RunDirectory
from recalign.runs.recording import record
from tests.evaluation.shops import domain, retrieval


def test_the_log_tells_what_counts_most_of_every_protocol(tmp_path, caplog):
    """Of candidates too, of whom a small catalogue has fewer than a hundred."""
    caplog.set_level("INFO", "recalign")
    asked = retrieval(domain(), "validation")
    found = {"full/hr@10": 0.25, "full/hr@10/cold": 0.5, "full/hr@1": 0.1, "cand41/hr@10": 0.75}
    record(RunDirectory(tmp_path), 3, [asked], {asked.task: Evaluated(found, {})}, None)
    assert caplog.messages == [
        "step 3, validation: shop_retrieval full/hr@10 0.2500, shop_retrieval cand41/hr@10 0.7500"
    ]


def test_of_lists_that_are_too_short_for_it_the_log_tells_the_first_place(tmp_path, caplog):
    caplog.set_level("INFO", "recalign")
    asked = retrieval(domain(), "validation")
    found = {"full/hr@1": 0.25, "cand41/hr@1": 0.5, "cand41/hr@10": 0.75}
    record(RunDirectory(tmp_path), 3, [asked], {asked.task: Evaluated(found, {})}, None)
    assert caplog.messages == [
        "step 3, validation: shop_retrieval full/hr@1 0.2500, shop_retrieval cand41/hr@10 0.7500"
    ]
