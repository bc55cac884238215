"""The other side of `eval --against`: a run as it was evaluated, or a baseline; or why not."""

import dataclasses

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.evaluation import outcomes
from recalign.evaluation.examples import RatingExamples
from recalign.runs.comparison import other_side, tell_domain
from recalign.runs.directory import RunDirectory
from recalign.runs.result import Result
from tests.evaluation.shops import domain, retrieval


@pytest.fixture
def examples():
    return retrieval(domain(), "test")


def came_to(examples, seed):
    """What some model came to on examples."""
    rng = np.random.default_rng(seed)
    lists = np.argsort(rng.random((len(examples), examples.domain.num_items)), axis=1)[:, :20]
    return outcomes.evaluate_lists(
        lists, examples.targets, examples.domain.num_items, "full", examples.users
    )


def evaluated(folder, examples, step, seed, split="test"):
    """The folder of a run that was evaluated at a step."""
    folder.mkdir(exist_ok=True)
    (folder / "config.gin").touch()
    found = came_to(examples, seed)
    tasks = {examples.task: (tell_domain(examples), found.outcomes)}
    RunDirectory(folder).record(step, split, {}, tasks)
    return found


def test_a_run_is_what_it_was_at_the_step_that_validation_chose(examples, tmp_path):
    folder = tmp_path / "run"
    early, late = (evaluated(folder, examples, step, step) for step in (200, 1000))
    for result, expected, step in (
        (None, late, 1000),
        (Result("", None, {}, 0, 1.0, 1000, 200, "full/ndcg@10", {}), early, 200),
    ):
        if result:
            result.write(folder)
        other = other_side(str(folder), [examples])
        assert other.name == f"{folder}, step {step}"
        found = other.outcomes[examples.task]["full"]
        np.testing.assert_array_equal(found.ranks, expected.outcomes["full"].ranks)
    RunDirectory(folder).forget_after(500)
    assert RunDirectory(folder).steps_with_outcomes("test") == [200]


def test_only_the_same_content_is_compared(examples, tmp_path):
    evaluated(tmp_path / "run", examples, 100, 0)
    changed = examples.domain.events.copy()
    changed[:2] = changed[1::-1]
    other = retrieval(dataclasses.replace(examples.domain, events=changed), "test")
    with pytest.raises(UserError, match=r"was evaluated on shop sha256 .* there and on shop"):
        other_side(str(tmp_path / "run"), [other])
    renamed = dataclasses.replace(examples, task="corner_retrieval")
    with pytest.raises(UserError, match=r"on shop_retrieval, and this run on corner_retrieval"):
        other_side(str(tmp_path / "run"), [renamed])


def test_ratings_of_a_part_alone_are_told_before_anything_is_evaluated(tmp_path):
    """Training takes EVAL_EXAMPLES of validation, which need not be the first by user."""
    shop = domain(rated=True)
    held = shop.rating_split("validation")
    every = RatingExamples(
        task="shop_rating",
        split="validation",
        domain=shop,
        inputs=[np.array([1])] * len(held),
        users=held.users,
        items=held.items,
        ratings=held.ratings,
        values=np.arange(1, 6),
        stars=[],
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.gin").touch()
    for limit, rows in ((9, np.arange(1, 10)), (None, np.arange(len(every)))):
        found = {"rating": outcomes.Errors(held.users[rows], np.zeros(len(rows)))}
        tasks = {every.task: (tell_domain(every), found)}
        RunDirectory(folder, 9).record(100, "validation", {}, tasks, limit)
        if limit:
            message = "other examples of validation .* `recalign eval --model_dir .*/run --split va"
            with pytest.raises(UserError, match=message):
                other_side(str(folder), [every])
    other = other_side(str(folder), [every])
    assert len(other.outcomes[every.task]["rating"].users) == len(every)


def test_a_run_that_was_not_evaluated_there_tells_how_to(examples, tmp_path):
    held = retrieval(examples.domain, "validation")
    evaluated(tmp_path / "run", held, 100, 0, "validation")
    message = r"written by `recalign eval --model_dir .*/run --split test --step"
    with pytest.raises(UserError, match=message):
        other_side(str(tmp_path / "run"), [examples])


def test_a_baseline_is_fitted_and_asked_the_same(examples):
    other = other_side("cooccurrence", [examples])
    assert other.name == "item co-occurrence"
    found = other.outcomes[examples.task]
    assert found.keys() == {"full", "full_unseen"}
    row = outcomes.subtract([came_to(examples, 0)], [found])
    assert {"full/hr@10", "full/low/hr@10", "full/high/ndcg@20"} <= row.keys()
    assert not [name for name in row if name.startswith("full_unseen")]


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("nothing", "no run in such a folder, and no baseline of that name; there are popularity"),
        ("user_mean", "user_mean predicts ratings, and shop has none"),
    ],
)
def test_what_cannot_be_compared_with_is_told(examples, against, message):
    with pytest.raises(UserError, match=message):
        other_side(against, [examples])


def test_a_baseline_of_another_kind_is_told():
    examples = retrieval(domain(rated=True), "test")
    with pytest.raises(UserError, match="does none of the run's tasks, shop_retrieval"):
        other_side("user_mean", [examples])
