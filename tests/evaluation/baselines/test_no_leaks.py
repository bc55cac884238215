"""Other test events, and what was fitted is the same, whichever baseline it is."""

import dataclasses

import numpy as np
import pytest

from recalign.domains.rating import PARTS
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.closed_form import TALE
from recalign.evaluation.baselines.sasrec.training import Recipe
from tests.evaluation.shops import domain


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    made = Recipe.__init__
    monkeypatch.setattr(Recipe, "__init__", lambda self, **given: made(self, **given, epochs=1))


def with_other_last_events(shop, events):
    """Others in place of the last events of every user, at other times."""
    changed, times = shop.events.copy(), shop.timestamps.copy()
    rng = np.random.default_rng(5)
    for back in range(1, events + 1):
        last = shop.offsets[1:] - back
        changed[last] = rng.integers(0, shop.num_items, len(last))
        times[last] += rng.integers(0, 10**7, len(last))
    assert (changed != shop.events).sum() > 20
    return dataclasses.replace(shop, events=changed, timestamps=times)


@pytest.mark.parametrize("name", baselines.RANKERS)
def test_the_test_events_change_nothing_that_is_fitted(name):
    one = domain()
    two = with_other_last_events(one, 1)
    histories = one.split("validation")  # the same in both
    everything = np.tile(np.arange(one.num_items), (len(histories), 1))
    first, second = (
        baselines.fitted_ranker(shop, name)[0].score(histories, everything) for shop in (one, two)
    )
    np.testing.assert_array_equal(first, second)


def test_validation_chooses_among_models_that_it_has_not_made():
    """TALE reads times, which the domain has of all events: of those of train alone."""
    one = domain()
    weights = []
    for shop in (one, with_other_last_events(one, 2)):
        held = one.split("validation")
        tale = TALE(held, held.targets, shop.train_times(), [5.0], [2.0], [0.2], [2.0])
        weights.append(tale.fit(*shop.train(), shop.num_items).weights)
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("name", baselines.RATERS)
def test_the_test_ratings_change_nothing_that_is_fitted(name):
    one = domain(rated=True, users=90, items=20)
    # Of each user all alike: what is held out says so too, or else the reverse.
    stars = 1 + 4 * (np.arange(one.num_users) % 2)
    one = dataclasses.replace(one, ratings=np.repeat(stars, one.lengths).astype(np.float32))
    asked = one.rating_parts == PARTS["test"]
    two = dataclasses.replace(one, ratings=np.where(asked, 6 - one.ratings, one.ratings))
    assert (one.ratings != two.ratings).sum() > 20
    pairs = np.indices((one.num_users, one.num_items)).reshape(2, -1)
    found = [baselines.fitted_rater(shop, name)[0].predict(*pairs) for shop in (one, two)]
    np.testing.assert_array_equal(*found)
