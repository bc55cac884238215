"""Baselines of rating prediction: means by hand, factorisation by its own definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.evaluation.baselines.raters import BiasedMF, GlobalMean, GroupMean, Ratings
from tests.evaluation.baselines.lines import count_lines


def table(seed, users=7, items=5, n=20):
    rng = np.random.default_rng(seed)
    return Ratings(
        rng.integers(0, users, n).astype(np.int32),
        rng.integers(0, items, n).astype(np.int32),
        rng.integers(1, 6, n).astype(np.float32),
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 5.0]))
@settings(deadline=None, max_examples=40)
def test_means_agree_with_brute_force(seed, shrinkage):
    train = table(seed)
    mean = sum(train.ratings.tolist()) / 20
    pairs = np.indices((8, 6)).reshape(2, -1)  # one user and one item more than were seen
    assert GlobalMean().fit(train, 8, 6).predict(*pairs) == pytest.approx([mean] * 48)
    for of, ids in (("users", pairs[0]), ("items", pairs[1])):
        got = GroupMean(of, shrinkage).fit(train, 8, 6).predict(*pairs)
        for index, value in zip(ids, got, strict=True):
            own = train.ratings[getattr(train, of) == index].tolist()
            expected = mean
            if own:
                expected += sum(r - mean for r in own) / (len(own) + shrinkage)
            assert value == pytest.approx(expected)


def test_a_mean_is_of_users_or_of_items():
    with pytest.raises(ValueError, match="expected users or items"):
        GroupMean("user")


def loss(model, train, regularization):
    """What `BiasedMF` says it minimises."""
    p, q = model.users[train.users], model.items[train.items]
    error = train.ratings - model.mean - p[:, 0] - q[:, 0] - (p[:, 1:] * q[:, 1:]).sum(axis=1)
    return (error**2).sum() + regularization * ((model.users**2).sum() + (model.items**2).sum())


def test_factorisation_ends_at_a_minimum_of_its_loss():
    train = table(0, n=30)
    model = BiasedMF(factors=2, regularizations=(0.5,), sweeps=400).fit(train, 7, 5)
    least = loss(model, train, 0.5)
    for vectors in (model.users, model.items):
        for index in np.ndindex(vectors.shape):
            for step in (1e-3, -1e-3):
                vectors[index] += step
                assert loss(model, train, 0.5) >= least - 1e-9
                vectors[index] -= step


def test_python_s_part_does_not_grow_with_users_items_or_ratings():
    few, many = (table(0, users=n, items=n, n=n) for n in (500, 20_000))

    def fit(train, size):
        return lambda: BiasedMF(factors=2, sweeps=2).fit(train, size, size)

    assert count_lines(fit(many, 20_000)) < 2 * count_lines(fit(few, 500))


def planted(seed=0, users=60, items=40, rank=2):
    """Ratings of rank 2 and biases, three quarters of them for train."""
    rng = np.random.default_rng(seed)
    values = 3 + rng.normal(0, 0.5, (users, 1)) + rng.normal(0, 0.5, (1, items))
    values += rng.normal(0, 0.7, (users, rank)) @ rng.normal(0, 0.7, (rank, items))
    where = rng.permutation(users * items)
    user, item = np.divmod(where, items)
    everything = Ratings(user, item, values[user, item].astype(np.float32))
    cut = len(where) * 3 // 4
    train, rest = (Ratings(*(x[part] for x in everything)) for part in (np.s_[:cut], np.s_[cut:]))
    return train, Ratings(*(x[::2] for x in rest)), Ratings(*(x[1::2] for x in rest))


def rmse(model, held):
    return np.sqrt(np.mean((model.predict(held.users, held.items) - held.ratings) ** 2))


def test_factorisation_finds_planted_structure_and_means_do_not():
    train, validation, test = planted()
    found = {
        name: rmse(model.fit(train, 60, 40), test)
        for name, model in {
            "global": GlobalMean(),
            "users": GroupMean("users"),
            "mf": BiasedMF(validation, regularizations=(5.0, 0.1)),
        }.items()
    }
    assert found["users"] < found["global"]
    assert found["mf"] < 0.3 * found["users"]


def test_validation_decides_on_the_regularisation():
    train, validation, _ = planted()
    tried = (50.0, 0.1, 5.0)
    errors = [
        rmse(BiasedMF(regularizations=(value,)).fit(train, 60, 40), validation) for value in tried
    ]
    chosen = BiasedMF(validation, regularizations=tried).fit(train, 60, 40)
    assert chosen.regularization == tried[int(np.argmin(errors))] == 0.1
    assert rmse(chosen, validation) == pytest.approx(min(errors), abs=1e-12)


def test_strangers_get_the_mean_and_nobody_leaves_the_scale():
    train = table(3)
    model = BiasedMF(regularizations=(1e-3,)).fit(train, 8, 6)
    assert model.predict(np.array([7]), np.array([5])) == pytest.approx([model.mean])
    pairs = np.indices((8, 6)).reshape(2, -1)
    got = model.predict(*pairs)
    assert train.ratings.min() <= got.min() <= got.max() <= train.ratings.max()
