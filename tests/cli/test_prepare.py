"""`recalign prepare`: options, what is printed, what is left on disk."""

import gzip
import hashlib
import json
import subprocess
import sys
import zipfile

import pandas as pd
import pytest
import seqio
from click.testing import CliRunner

from recalign import domains
from recalign.cli.prepare import prepare
from recalign.errors import UserError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{u}\ti{(u + n) % 6}\t{n}\n" for u in range(4) for n in range(3 + u % 2)
)
ITEM = "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\tItem &amp; {n}\n" for n in range(7))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "x.inter").write_text(INTER)
    (tmp_path / "x.item").write_text(ITEM)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(prepare, [str(a) for a in arguments], catch_exceptions=True)


def recbole(files, *more):
    inter, item = files / "x.inter", files / "x.item"
    return run(
        "recbole", "--inter", inter, "--item", item, "--name", "x", "--data_dir", files / "d", *more
    )


def digests(folder):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).digest() for f in files}


def done(result):
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(result):
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)


def test_recbole(files):
    output = done(recbole(files))
    assert "x: 4 users, 7 items, 14 interactions" in output
    assert "titles with entities 7" in output
    assert "items without interactions 1" in output
    assert str(files / "d" / "x") in output
    assert [f.name for f in (files / "d").iterdir()] == ["x"]
    statistics = json.loads((files / "d" / "x" / "statistics.json").read_text())
    assert statistics["users"] == 4
    assert statistics["records_test"] == 4
    sha256 = hashlib.sha256(INTER.encode()).hexdigest()
    assert statistics["sources"]["interactions"] == {"file": "x.inter", "sha256": sha256}
    domain = domains.load("x", files / "d")
    assert domain.items["title"].str.match(r"Item & \d").all()
    assert domain.vocabulary_path is None
    source = seqio.TfdsDataSource("x:1.0.0", tfds_data_dir=str(files / "d"))
    split = domain.split("test")
    for e, record in enumerate(source.get_dataset("test", shuffle=False).as_numpy_iterator()):
        assert record["history"].tolist() == split.history(e).tolist()


def test_preparing_again_changes_nothing_and_overwriting_gives_the_same_bytes(files):
    done(recbole(files))
    folder = files / "d" / "x"
    before, inode = digests(folder), folder.stat().st_ino
    (files / "x.inter").rename(files / "y.inter")
    (files / "y.inter").rename(files / "x.inter")
    assert "already prepared" in done(recbole(files))
    assert folder.stat().st_ino == inode
    done(recbole(files, "--overwrite"))
    assert folder.stat().st_ino != inode
    assert digests(folder) == before


def test_another_domain_of_the_name_needs_overwrite(files):
    done(recbole(files))
    before = digests(files / "d")
    message = refused(recbole(files, "--seed", 1))
    assert "other options (seed)" in message
    assert "--overwrite" in message
    (files / "x.inter").write_text(INTER + "u0\ti6\t9\n")
    assert "other source files" in refused(recbole(files))
    assert digests(files / "d") == before
    done(recbole(files, "--overwrite"))
    assert domains.load("x", files / "d").statistics["interactions"] == 15


def test_a_folder_that_is_no_domain_is_never_replaced(files):
    (files / "d" / "x").mkdir(parents=True)
    (files / "d" / "x" / "thesis.txt").write_text("precious")
    assert "not a prepared domain" in refused(recbole(files, "--overwrite"))
    assert (files / "d" / "x" / "thesis.txt").read_text() == "precious"


def test_a_failure_leaves_nothing_behind(files):
    (files / "x.inter").write_text(INTER + "u0\ti6\tlate\n")
    assert "line 16" in refused(recbole(files))
    assert "not a SentencePiece model" in refused(
        run(
            "toyshop", "--users", 20, "--items", 40, "--data_dir", files / "d",
            "--vocabulary", files / "x.item",
        )
    )  # fmt: skip
    assert not (files / "d").exists() or list((files / "d").iterdir()) == []


def test_k_core_says_what_it_dropped(files):
    (files / "x.inter").write_text(INTER + "loner\ti6\t1\n")
    output = done(recbole(files, "--k-core", 2))
    assert "k core dropped users 1" in output
    statistics = domains.load("x", files / "d").statistics
    assert statistics["cleaning"]["k_core_dropped_interactions"] >= 1
    assert statistics["options"]["k_core"] == 2
    assert "drops every interaction" in refused(recbole(files, "--k_core", 9, "--overwrite"))


def test_warnings_go_to_standard_error(files):
    (files / "x.inter").write_text(INTER + "u0\tmystery\t9\n")
    result = recbole(files)
    done(result)
    assert "warning: the item table lacks 1 of the items bought, such as 'mystery'" in result.stderr
    assert "warning:" not in result.stdout


@pytest.mark.parametrize("dashed", [True, False])
def test_both_spellings_of_an_option(files, dashed):
    options = ["--data_dir", "--user_field", "--k_core", "--vocab_size"]
    values = [files / "d", "user_id", 1, 400]
    if dashed:
        options = ["--" + o[2:].replace("_", "-") for o in options]
    pairs = [word for pair in zip(options, values, strict=True) for word in pair]
    done(run("recbole", "--inter", files / "x.inter", "--name", "x", *pairs))
    assert domains.load("x", files / "d").vocabulary_path is not None


def test_table(files):
    pd.DataFrame(
        {
            "who": ["a", "a", "a", "b"],
            "what": [3, 1, 2, 3],
            "at": [30, 10, 20, 5],
            "n": [1, 2, 3, 4],
        }
    ).to_parquet(files / "orders.parquet")
    (files / "goods.csv").write_text("sku,label,kind\n1,One,x\n2,Two,y\n3,Three,z\n")
    output = done(
        run(
            "table", "--interactions", files / "orders.parquet", "--items", files / "goods.csv",
            "--user-column", "who", "--item-column", "what", "--timestamp-column", "at",
            "--rating-column", "n", "--catalogue-item-column", "sku", "--title-column", "label",
            "--categories-column", "kind", "--name", "goods", "--data_dir", files / "d",
        )
    )  # fmt: skip
    assert "item from sku" in output
    assert "1 users without test" in output
    domain = domains.load("goods", files / "d")
    titles = domain.items["title"].tolist()
    assert [titles[i] for i in domain.events] == ["One", "Two", "Three", "Three"]
    assert domain.ratings.tolist() == [2, 3, 1, 4]


def test_toyshop_has_its_own_vocabulary_and_depends_on_the_seed_alone(tmp_path):
    small = ["toyshop", "--users", 60, "--items", 50]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        done(run(*small, "--seed", seed, "--data_dir", tmp_path / folder))
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")
    domain = domains.load("toyshop", tmp_path / "a")
    assert domain.vocabulary_path.name == "spiece.model"
    assert domain.statistics["vocabulary_pieces"] <= 1000
    assert "other options (seed)" in refused(run(*small, "--seed", 2, "--data_dir", tmp_path / "a"))


def test_the_default_data_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path))
    done(run("toyshop", "--users", 20, "--items", 40, "--name", "corner"))
    assert domains.prepared() == ["corner"]


def test_wrong_use(files):
    assert "cannot name a domain" in refused(
        run("recbole", "--inter", files / "x.inter", "--name", "My-Shop")
    )
    assert "No such file" in refused(run("recbole", "--inter", files / "none", "--name", "x"))
    assert "give one" in refused(
        recbole(files, "--vocab_size", 400, "--vocabulary", files / "x.item")
    )
    assert run("recbole", "--name", "x").exit_code == 2


@pytest.mark.parametrize("year", [2014, 2023])
def test_amazon(files, year):
    user, item, rating, time = {
        2014: ("reviewerID", "asin", "overall", "unixReviewTime"),
        2023: ("user_id", "parent_asin", "rating", "timestamp"),
    }[year]
    reviews = [{user: "u", item: f"i{n}", rating: 5.0 - n, time: 9 - n} for n in range(3)]
    meta = [{item: f"i{n}", "title": f"Item {n}"} for n in range(5)]
    for name, records in (("reviews", reviews), ("meta", meta)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (files / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    arguments = [
        f"amazon{year}", "--reviews", files / "reviews.gz", "--meta", files / "meta.gz",
        "--name", "shop", "--data_dir", files / "d",
    ]  # fmt: skip
    assert "shop: 1 users, 3 items, 3 interactions" in done(run(*arguments))
    domain = domains.load("shop", files / "d")
    assert [domain.items["title"][i] for i in domain.events] == ["Item 2", "Item 1", "Item 0"]
    assert domain.ratings.tolist() == [3, 4, 5]
    assert "other options (all_items)" in refused(run(*arguments, "--all_items"))
    done(run(*arguments, "--all_items", "--overwrite"))
    assert domains.load("shop", files / "d").num_items == 5


def test_movielens_from_a_folder_and_an_archive(files):
    with zipfile.ZipFile(files / "ml.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "".join(f"1::{n}::5::{9 - n}\n" for n in range(3)))
        archive.writestr("ml-1m/movies.dat", "".join(f"{n}::Film {n} (1999)::\n" for n in range(3)))
        archive.extractall(files / "folder")
    for path in (files / "ml.zip", files / "folder"):
        arguments = ["movielens", "--path", path, "--name", path.stem, "--data_dir", files / "d"]
        done(run(*arguments))
        assert "already prepared" in done(run(*arguments))
        domain = domains.load(path.stem, files / "d")
        titles = [domain.items["title"][i] for i in domain.events]
        assert titles == [f"Film {n} (1999)" for n in (2, 1, 0)]


COMMANDS = ["recbole", "table", "amazon2014", "amazon2023", "movielens", "toyshop"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_all(command):
    output = done(run(command, "--help"))
    for word in ("--data_dir", "--k_core", "--seed", "--vocab_size", "--overwrite", "Example:"):
        assert word in output
    assert f"  recalign prepare {command} " in output


def test_importing_the_command_costs_only_click():
    program = (
        "import sys, recalign.cli.prepare; "
        "print([m for m in ('numpy', 'pandas', 'tensorflow', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
