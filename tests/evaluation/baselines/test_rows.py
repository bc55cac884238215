"""Rows of the report: every protocol, one evaluator, and refusals that say what to do."""

import dataclasses

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.evaluation.baselines import closed_form
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.counting import ItemCooccurrence
from recalign.evaluation.baselines.raters import GroupMean
from recalign.evaluation.examples import RankingExamples
from recalign.evaluation.intervals import name_end
from recalign.evaluation.metrics import candidate_ranking, full_ranking, rating
from tests.evaluation.shops import domain, retrieval

NETWORKS = ("sasrec", "sasrec_prefixes", "bsarec")


def test_every_baseline_has_its_protocols():
    """The networks are fitted by name in test_no_leaks."""
    shop = domain(rated=True)
    assert baselines.possible(shop) == [*baselines.RANKERS, *baselines.RATERS]
    names = [*baselines.RANKERS, *baselines.RATERS]
    rows = baselines.domain_rows(shop, "test", [n for n in names if not n.endswith(NETWORKS)])
    rankers, raters = list(rows)[:-4], list(rows)[-4:]
    assert rankers == ["popularity", "item co-occurrence", "BPR-MF", "EASE", "SLIT", "TALE"]
    assert raters == ["global mean", "user mean", "item mean", "biased MF"]
    ranking = {"full/hr@10", "full_unseen/ndcg@10", "cand100/hr@10", "cand100/ndcg@5"}
    for name in rankers:
        metrics = rows[name].metrics()
        assert ranking | {name_end(each, "low") for each in ranking} < set(metrics)
        assert metrics["full_unseen/invalid_rate"] == 0
    errors = {f"rating/{end}{each}" for each in ("rmse", "mae") for end in ("", "low/", "high/")}
    for name in raters:
        assert set(rows[name].metrics()) == errors | {"rating/parse_rate"}


def test_a_row_of_several_seeds_is_their_mean():
    shop = domain(rated=False)
    names = ["cooccurrence", "bpr"]
    apart = [baselines.domain_rows(shop, "test", names, [seed])["BPR-MF"] for seed in (1, 2)]
    values = [row.metrics()["full/hr@20"] for row in apart]
    assert values[0] != values[1]
    together = baselines.domain_rows(shop, "test", names, [1, 2])
    assert together["BPR-MF"].metrics()["full/hr@20"] == pytest.approx(np.mean(values))
    assert len(together["item co-occurrence"].seeds) == 1


def test_rows_are_those_of_the_evaluator():
    shop = domain(rated=True)
    rows = baselines.domain_rows(shop, "validation", ["cooccurrence", "item_mean"])
    held, lists = shop.split("validation"), shop.candidates("validation")
    ranker = ItemCooccurrence().fit(*shop.train(), shop.num_items)
    columns = [row.tolist().index(t) for row, t in zip(lists, held.targets, strict=True)]
    expected = candidate_ranking(ranker.score(held, lists), np.array(columns))
    [found] = rows["item co-occurrence"].seeds
    for protocol, unseen in (("full", False), ("full_unseen", True)):
        lists = ranker.rank(held, 20, remove_seen=unseen)
        expected |= full_ranking(lists, held.targets, shop.num_items, protocol)
    assert expected.items() < found.metrics.items()
    assert expected["full/hr@20"] != expected["full_unseen/hr@20"]
    train, test = shop.rating_split("train"), shop.rating_split("validation")
    rater = GroupMean("items").fit(train, shop.num_users, shop.num_items)
    [found] = rows["item mean"].seeds
    assert found.metrics == rating(rater.predict(test.users, test.items), test.ratings, 3)


def test_rows_beside_a_model_are_those_of_the_command():
    shop = domain(rated=False)
    rows = baselines.domain_rows(shop, "test", baselines.FREE)
    examples = retrieval(shop, "test")
    full = baselines.beside(examples)
    lists = RankingExamples(**vars(examples), candidates=shop.candidates("test"))
    listed = baselines.beside(lists)
    assert {name: full[name] | listed[name] for name in full} == {
        name: row.metrics() for name, row in rows.items()
    }


def test_what_cannot_be_fitted_is_refused_before_anything_is():
    with pytest.raises(UserError, match="no baseline 'svd'; there are popularity"):
        baselines.domain_rows(domain(rated=True), "test", ["sasrec", "svd"])
    with pytest.raises(UserError, match="item_mean predicts ratings, and shop has none"):
        baselines.domain_rows(domain(rated=False), "test", ["sasrec", "item_mean"])
    for given in ({"timestamps": None}, {"timestamps": np.full(240, np.nan)}):
        timeless = dataclasses.replace(domain(), **given)
        with pytest.raises(UserError, match=r"TALE weighs .* shop has .*: choose slit"):
            baselines.domain_rows(timeless, "test", ["sasrec", "tale"])


def test_tale_counts_in_days():
    shop = domain()
    found, _ = baselines.fitted_ranker(shop, "tale")
    held, days = shop.split("validation"), shop.train_times() / (24 * 60 * 60)
    expected = closed_form.TALE(held, held.targets, days).fit(*shop.train(), shop.num_items)
    np.testing.assert_array_equal(found.weights, expected.weights)


def test_tale_counts_in_days_whatever_the_unit():
    """Of the source, which is told by how large times since 1970 are in it."""
    shop = domain()
    since = shop.timestamps + 1_400_000_000
    weights = []
    for unit in (1, 10**3, 10**6, 10**9):
        timed = dataclasses.replace(shop, timestamps=since * unit)
        weights.append(baselines.fitted_ranker(timed, "tale")[0].weights)
    assert np.abs(weights[0]).max() > 0.01
    for others in weights[1:]:
        np.testing.assert_allclose(others, weights[0], atol=1e-6)


def test_tale_takes_a_domain_that_lacks_some_times():
    shop = domain()
    times = shop.timestamps.astype(float)
    times[shop.offsets[1] : shop.offsets[2]] = np.nan
    lacking = dataclasses.replace(shop, timestamps=times)
    [row] = baselines.domain_rows(lacking, "validation", ["tale"]).values()
    assert 0 < row.metrics()["full/hr@10"] <= 1


def test_all_are_those_that_fit(monkeypatch, caplog):
    """What nobody asked for by name ends nothing where it cannot be."""
    shop = dataclasses.replace(domain(rated=False), timestamps=None)
    names = [*baselines.RANKERS]
    names.remove("tale")
    assert baselines.possible(shop) == names
    assert "tale is left out: TALE weighs" in caplog.text

    class Little:
        available = 100_000

    monkeypatch.setattr(closed_form.psutil, "virtual_memory", lambda: Little)
    assert baselines.possible(shop) == [n for n in names if n not in ("ease", "slit")]
    message = "SLIT over 110 items takes .* up to 79 items. Choose another"
    with pytest.raises(UserError, match=message):
        baselines.domain_rows(shop, "test", ["slit"])


def test_only_what_ranks_is_added_to_a_ranking():
    for name, message in (
        ("user_mean", "'user_mean' predicts ratings; those that rank are popularity, "),
        ("svd", "'svd' is neither a run's folder nor a baseline; those that rank are "),
    ):
        with pytest.raises(UserError, match=message):
            baselines.check_ranker(domain(rated=True), name)
    baselines.check_ranker(domain(), "tale")
