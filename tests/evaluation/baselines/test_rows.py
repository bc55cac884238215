"""Rows of the report: every protocol, one evaluator, and refusals that say what to do."""

import numpy as np
import pandas as pd
import pytest

from recalign.domains import Domain
from recalign.errors import UserError
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.counting import ItemCooccurrence
from recalign.evaluation.baselines.raters import GroupMean
from recalign.evaluation.baselines.sasrec.training import Recipe
from recalign.evaluation.metrics import candidate_ranking, rating
from recalign.evaluation.report import name_end


def domain(rated, users=60, items=130, length=8, seed=0):
    rng = np.random.default_rng(seed)
    events = np.concatenate([rng.permutation(items)[:length] for _ in range(users)])
    return Domain(
        name="shop",
        items=pd.DataFrame({"key": [str(item) for item in range(items)]}),
        offsets=length * np.arange(users + 1),
        events=events.astype(np.int32),
        ratings=rng.integers(1, 6, len(events)).astype(np.float32) if rated else None,
    )


@pytest.fixture
def brief(monkeypatch):
    """SASRec for two epochs."""
    made = Recipe.__init__
    monkeypatch.setattr(Recipe, "__init__", lambda self, seed: made(self, epochs=2, seed=seed))


@pytest.mark.usefixtures("brief")
def test_all_baselines_of_a_rated_domain():
    rows = baselines.domain_rows(domain(rated=True), "test")
    rankers, raters = list(rows)[:6], list(rows)[6:]
    assert rankers == ["popularity", "item co-occurrence", "BPR-MF", "EASE", "SLIT", "SASRec"]
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
    assert expected.items() < found.metrics.items()
    train, test = shop.rating_split("train"), shop.rating_split("validation")
    rater = GroupMean("items").fit(train, shop.num_users, shop.num_items)
    [found] = rows["item mean"].seeds
    assert found.metrics == rating(rater.predict(test.users, test.items), test.ratings, 3)
    beside = baselines.rating_rows(train, test, test, shop.num_users, shop.num_items)
    assert beside["item mean"].metrics == found.metrics


def test_free_rows_beside_a_model_are_those_of_the_command():
    shop = domain(rated=False)
    held, lists = shop.split("test"), shop.candidates("test")
    rows = baselines.domain_rows(shop, "test", baselines.FREE)
    given = shop.train(), (held.offsets, held.events), held.targets
    full = baselines.baseline_metrics(*given, shop.num_items)
    listed = baselines.candidate_rows(*given, lists, shop.num_items)
    assert {name: full[name] | listed[name] for name in full} == {
        name: row.metrics() for name, row in rows.items()
    }


def test_what_cannot_be_fitted_is_refused_before_anything_is():
    with pytest.raises(UserError, match="no baseline 'svd'; there are popularity"):
        baselines.domain_rows(domain(rated=True), "test", ["sasrec", "svd"])
    with pytest.raises(UserError, match="item_mean predicts ratings, and shop has none"):
        baselines.domain_rows(domain(rated=False), "test", ["sasrec", "item_mean"])
