"""`recalign add-items`: a run recommends what it has never seen, and all else is as it was."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import seqio
from click.testing import CliRunner

from recalign import domains
from recalign.cli import recalign
from recalign.domains import additions
from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.errors import UserError
from recalign.runs.added_items import with_added_items
from recalign.runs.run import load
from recalign.samples.registry import domain_of, domains_in, register_domain
from recalign.serving.recommender import of_run
from tests.commands import SMALL_NETWORK, run

SMALL = [
    "--gin.MIXTURE_OR_TASK_NAME=codedshop_retrieval_only",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 32}",
    "--gin.TRAIN_STEPS=1",
    "--gin.EVAL_EXAMPLES=4",
    *SMALL_NETWORK,
]
HISTORIES = [[3, 1, 4], [15, 9]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a shop whose ids are codes."""
    folder = tmp_path_factory.mktemp("coded")
    shop = ["--users", 60, "--items", 50, "--name", "codedshop", "--vocab_size", 700]
    run("prepare", "toyshop", *shop, "--item_ids", "rkmeans", "--id_codes", "2x8")
    register_domain("codedshop")
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder / 'run'}", *SMALL)
    yield folder / "run"
    shutil.rmtree(domains.data_dir() / "codedshop")


def table(path, keys, titles):
    pd.DataFrame({"item_id": keys, "title": titles}).to_parquet(path)
    return path


def ranked(folder):
    """Every item's score for each history, by item."""
    recommender = of_run(with_added_items(load(str(folder))), exact=True)
    found = recommender.recommend(HISTORIES, 1000, include_seen=True)
    return recommender, [
        dict(zip(items.tolist(), scores.tolist(), strict=True))
        for items, scores in zip(found.items, found.scores, strict=True)
    ]


def test_new_items_are_recommended_and_old_ones_score_as_before_until_it_is_undone(
    trained, tmp_path, monkeypatch
):
    domain = domains.load("codedshop")
    titles = domain.items["title"].tolist()
    files = sorted(p for p in Path(str(domain.path)).rglob("*") if p.is_file())
    kept = {path: path.read_bytes() for path in files}
    _, before = ranked(trained)
    new = table(tmp_path / "new.parquet", ["new-1", "new-2"], [f"{titles[7]} II", titles[0]])
    said = run("add-items", "--model_dir", trained, "--items", new)
    assert "2 items added to 50 of codedshop" in said
    recommender, after = ranked(trained)
    assert recommender.domain.num_items == 52
    assert recommender.domain.item_ids[:50].tolist() == domain.item_ids.tolist()
    for was, now in zip(before, after, strict=True):
        assert now.keys() == {*range(52)}
        assert {item: now[item] for item in was} == was  # bit by bit
    # By id, by the page's search, in a history, and in predictions.
    assert [recommender.describe(i)["id"] for i in recommender.matches("ii new", 9)] == ["new-1"]
    assert recommender.history(["new-2", recommender.domain.item_ids[50]]) == [51, 50]
    rows = json.loads(run(
        "recommend", "--model_dir", trained, "--history", "new-1", "--k", 60, "--json"
    ))["items"]  # fmt: skip
    assert {row["id"] for row in rows} == {*recommender.domain.items["key"]} - {"new-1"}
    more = table(tmp_path / "more.parquet", ["new-3"], [titles[30]])
    run("add-items", "--model_dir", trained, "--items", more)
    assert with_added_items(load(str(trained))).retrieval_examples("test", 1).domain.num_items == 53
    # What was trained, and everyone else, has the catalogue of before.
    plain = load(str(trained))
    [task] = [e.task for e in plain.data.examples("validation", 1)]
    assert len(plain.data.item_tokens(task)) == 50
    assert plain.retrieval_examples("test", 1).domain.num_items == 50
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", Mock(side_effect=OSError(errno.EROFS, "Read-only")))
        with pytest.raises(UserError, match="added_items cannot be taken away: Read-only"):
            run("add-items", "--model_dir", trained, "--undo")
    run("add-items", "--model_dir", trained, "--undo")
    assert not [*trained.glob("*added_items*"), *trained.glob(".*added_items*")]
    assert ranked(trained)[1] == before
    assert {path: path.read_bytes() for path in files} == kept


@pytest.mark.parametrize("lost", ["provenance.json", "codedshop", "codedshop/1.0.0"])
@pytest.mark.parametrize("how", [None, "[1]"])
def test_what_is_damaged_beside_added_items_is_told(trained, tmp_path, lost, how):
    """And is not taken for a catalogue without them."""
    new = table(tmp_path / "new.parquet", ["new"], [domains.load("codedshop").items["title"][3]])
    run("add-items", "--model_dir", trained, "--items", new)
    path = trained / "added_items" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if how:
        path.write_text(how)
    with pytest.raises(UserError, match=r"added_items is damaged: .*--undo`, and add them again"):
        with_added_items(load(str(trained)))
    run("add-items", "--model_dir", trained, "--undo")


def test_what_cannot_be_added_is_told_and_nothing_is_left(trained, tmp_path):
    domain = domains.load("codedshop")
    known = domain.items["key"].tolist()
    for keys, titles, message in (
        (["new", known[3]], ["Red car", "Red car"], f"item '{known[3]}' is in the catalogue"),
        (["new"], ["Zyx"], "no word of item 'new' is in a text of codedshop"),
        (["new", ""], ["Red car", "Red car"], "row 2"),
    ):
        new = table(tmp_path / "new.parquet", keys, titles)
        result = CliRunner().invoke(
            recalign, ["add-items", "--model_dir", str(trained), "--items", str(new)]
        )
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception), result.exception
    for options, message in (
        (["--undo"], "no items were added"),
        ([], "Give either --items FILE or --undo"),
        (["--items", str(new), "--undo"], "Give either --items FILE or --undo"),
        (["--items", str(table(new, ["n"], ["a"])), "--domain", "toys"], "has no domain 'toys'"),
    ):
        result = CliRunner().invoke(recalign, ["add-items", "--model_dir", str(trained), *options])
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception), result.exception
    assert not (trained / "added_items").exists()


def test_ids_that_are_numbers_go_on_while_they_have_digits():
    shop = assemble(toyshop.generate(10, 98), "small")
    new = pd.DataFrame({"key": ["n0", "n1"], "title": "One", "brand": "", "categories": ""})
    digits = _with_options(shop, {})
    grown = additions.add_items(digits, new)
    assert grown.item_ids.tolist() == [f"#{n:02d}" for n in range(100)]
    assert grown.items["key"].tolist() == [*shop.items["key"], "n0", "n1"]
    many = pd.concat([new, new.assign(key=["m0", "m1"])])
    with pytest.raises(UserError, match=r"room for 100 items, and with the new ones they .* 102"):
        additions.add_items(digits, many)
    for options in ({"vocab_size": 400}, {"item_tokens": True}):
        with pytest.raises(UserError, match="each item of small is a token of its own"):
            additions.add_items(_with_options(shop, options), new)


def _with_options(domain, options):
    return dataclasses.replace(domain, statistics={"options": options})


def test_domains_of_a_folder_are_registered_for_a_while(trained, tmp_path):
    where = domain_of(seqio.TaskRegistry.get("codedshop_retrieval"))
    shutil.copytree(domains.data_dir() / "codedshop", tmp_path / "codedshop")
    shutil.copytree(domains.data_dir() / "codedshop", tmp_path / "othershop")
    with domains_in(str(tmp_path)):
        found = domain_of(seqio.TaskRegistry.get("codedshop_retrieval"))
        assert found == ("codedshop", str(tmp_path))
        assert "othershop_mim" in seqio.TaskRegistry.names()
    assert domain_of(seqio.TaskRegistry.get("codedshop_retrieval")) == where
    assert "othershop_mim" not in seqio.TaskRegistry.names()
