"""Kept fits: read instead of fitted, the same to the last bit, and never those of another fit."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import recalign
from recalign.evaluation.baselines import closed_form, kept
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.sasrec.training import Recipe
from tests.evaluation.shops import domain, on_disk

FITTED = ("bpr", "ease", "slit", "tale", "bsarec")


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Networks for an epoch."""
    made = Recipe.__init__
    monkeypatch.setattr(Recipe, "__init__", lambda self, **given: made(self, **given, epochs=1))


def scores(model, shop):
    held = shop.split("validation")
    everything = np.tile(np.arange(shop.num_items), (len(held), 1))
    return model.score(held, everything)


@pytest.mark.parametrize("name", FITTED)
def test_what_is_read_is_what_was_fitted(name, tmp_path, monkeypatch):
    shop = on_disk(domain(), tmp_path / "shop")
    model, seconds = baselines.fitted_ranker(shop, name)
    expected = scores(model, shop)
    assert [p.name.split("-")[:2] for p in (shop.path / "baselines").iterdir()] == [[name, "0"]]
    fit = type(model).fit
    monkeypatch.setattr(type(model), "fit", lambda *_: pytest.fail("fitted again"))
    again, told = baselines.fitted_ranker(shop, name)
    assert again is not model
    np.testing.assert_array_equal(scores(again, shop), expected)
    assert told == seconds > 0
    # Where there is no folder, nothing is kept, and it is the same.
    monkeypatch.setattr(type(model), "fit", fit)
    fresh, _ = baselines.fitted_ranker(dataclasses.replace(shop, path=None), name)
    np.testing.assert_array_equal(scores(fresh, shop), expected)


def test_other_data_other_seeds_and_other_options_are_fitted_anew(tmp_path, monkeypatch):
    shop = on_disk(domain(), tmp_path / "shop")
    folder = shop.path / "baselines"

    def names():
        return {path.name for path in folder.iterdir()}

    baselines.fitted_ranker(shop, "bpr", 0)
    first = names()
    baselines.fitted_ranker(shop, "bpr", 1)
    assert len(names()) == 2
    assert first < names()
    # Of one seed, the newest stays alone.
    other = on_disk(domain(seed=1), tmp_path / "shop")
    baselines.fitted_ranker(other, "bpr", 0)
    assert len(names()) == 2
    assert not first & names()
    baselines.fitted_ranker(other, "ease")
    with monkeypatch.context() as patch:
        patch.setattr(closed_form.EASE.__init__, "__defaults__", ((7.0,), (0.5,)))
        model, _ = baselines.fitted_ranker(other, "ease")
    assert list(model.setting) == [7.0]
    model, _ = baselines.fitted_ranker(other, "ease")
    assert model.setting[0] != 7.0


def test_what_has_no_seed_is_one_fit(tmp_path, monkeypatch):
    shop = on_disk(domain(), tmp_path / "shop")
    expected = scores(baselines.fitted_ranker(shop, "ease", 0)[0], shop)
    monkeypatch.setattr(closed_form.EASE, "fit", lambda *_: pytest.fail("fitted again"))
    [row] = baselines.domain_rows(shop, "test", ["ease"], [1, 2]).values()
    assert len(row.seeds) == 1
    np.testing.assert_array_equal(
        scores(baselines.fitted_ranker(shop, "ease", 3)[0], shop), expected
    )


def test_what_baselines_compute_with_is_hashed(tmp_path):
    """All that they import of recalign, but what speaks to users, tells metrics or gives data."""
    folder, package = Path(kept.__file__).parent, Path(recalign.__file__).parent
    texts = [p.read_text() for p in folder.rglob("*.py") if p.name not in ("rows.py", "kept.py")]
    named = set(re.findall(r"^ *from (recalign[.\w]*) import", "\n".join(texts), re.MULTILINE))
    files = {name.removeprefix("recalign.").replace(".", "/") + ".py" for name in named}
    files = {f for f in files if not f.startswith("evaluation/baselines")}
    assert files - {"errors.py", "progress.py", "evaluation/metrics.py"} <= {*kept.SOURCES}
    assert "engine/training/losses.py" in files
    assert all((package / source).is_file() for source in kept.SOURCES)


@pytest.mark.parametrize("source", kept.SOURCES)
def test_another_source_is_another_file(source, tmp_path, monkeypatch):
    shop = on_disk(domain(), tmp_path / "shop")
    baselines.fitted_ranker(shop, "ease")
    [before] = (shop.path / "baselines").iterdir()
    read = Path.read_bytes

    def changed(path):
        return read(path) + b"#" * path.as_posix().endswith(source)

    monkeypatch.setattr(Path, "read_bytes", changed)
    baselines.fitted_ranker(shop, "ease")
    [after] = (shop.path / "baselines").iterdir()
    assert after != before


def test_what_is_damaged_is_fitted_again(tmp_path, caplog):
    shop = on_disk(domain(), tmp_path / "shop")
    model, _ = baselines.fitted_ranker(shop, "bpr")
    [path] = (shop.path / "baselines").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    again, _ = baselines.fitted_ranker(shop, "bpr")
    assert "cannot be read" in caplog.text
    np.testing.assert_array_equal(scores(again, shop), scores(model, shop))
    assert len(path.read_bytes()) > 1000


def test_where_nothing_can_be_written_the_fit_serves_once(tmp_path, caplog):
    shop = on_disk(domain(), tmp_path / "shop")
    (shop.path / "baselines").write_text("in the way")
    model, _ = baselines.fitted_ranker(shop, "bpr")
    assert "is not kept" in caplog.text
    assert np.isfinite(scores(model, shop)).all()


def test_ratings_are_kept_too(tmp_path, monkeypatch):
    shop = on_disk(domain(rated=True), tmp_path / "shop")
    test = shop.rating_split("test")
    model, _ = baselines.fitted_rater(shop, "biased_mf")
    expected = model.predict(test.users, test.items)
    monkeypatch.setattr(type(model), "fit", lambda *_: pytest.fail("fitted again"))
    again, _ = baselines.fitted_rater(shop, "biased_mf")
    np.testing.assert_array_equal(again.predict(test.users, test.items), expected)
    assert again.regularization == model.regularization


def test_the_name_of_a_file_is_that_of_its_content():
    one, other = domain(), domain(seed=1)
    assert kept.content(one) == kept.content(domain())
    assert kept.content(one) != kept.content(other)
