"""`recalign prepare`: options, what is printed, what is left on disk."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import seqio
from click.testing import CliRunner

from recalign import domains
from recalign.cli.prepare import prepare
from recalign.errors import UserError
from recalign.samples import items
from tests.splits import history as history_of

INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{u}\ti{(u + n) % 6}\t{n}\n" for u in range(4) for n in range(3 + u % 2)
)
ITEM = "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\tItem &amp; {n}\n" for n in range(7))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "x.inter").write_text(INTER)
    (tmp_path / "x.item").write_text(ITEM)
    return tmp_path


def run(*arguments, stdin=None):
    return CliRunner().invoke(prepare, [str(a) for a in arguments], stdin, catch_exceptions=True)


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
    assert not (domain.path / "spiece.model").exists()
    source = seqio.TfdsDataSource("x:1.0.0", tfds_data_dir=str(files / "d"))
    split = domain.split("test")
    for e, record in enumerate(source.get_dataset("test", shuffle=False).as_numpy_iterator()):
        assert record["history"].tolist() == history_of(split, e).tolist()


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


def test_a_place_that_cannot_be_written_to_is_found_before_the_work(files):
    (files / "d").write_text("a file, where the data directory should be")
    (files / "x.inter").write_text("not even read")
    assert f"{files / 'd'}: cannot be written to" in refused(recbole(files))


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
    assert (files / "d" / "x" / "spiece.model").exists()


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
    assert (domain.path / "spiece.model").exists()
    assert domain.statistics["vocabulary_pieces"] <= 1000
    assert "other options (seed)" in refused(run(*small, "--seed", 2, "--data_dir", tmp_path / "a"))


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A toy shop whose ids are codes of vectors from a file, and what was printed."""
    folder = tmp_path_factory.mktemp("coded")
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(50, 6)))
    options = ["--item_ids", "rkmeans", "--id_codes", "2x6", "--id_vectors", folder / "v.npy"]
    small = ["toyshop", "--users", 60, "--items", 50, "--data_dir", folder]
    return folder, done(run(*small, *options)), [*small, *options]


def test_ids_that_are_codes(coded):
    folder, output, command = coded
    domain = domains.load("toyshop", folder)
    told = domain.statistics["item_ids"]
    used = ", ".join(f"{lv['used']} (perplexity {lv['perplexity']:.0f})" for lv in told["levels"])
    assert f"rkmeans of {folder / 'v.npy'}; codes used in each level: {used}" in output
    assert f"share all their codes with another: {told['collision_rate']:.1%}, at most" in output
    assert len({*domain.item_ids}) == 50
    assert all(text.startswith("<a_") for text in domain.item_ids)
    texts = items.item_texts("toyshop", str(folder))
    levels = 2 + (domain.codes.counters >= 0)
    assert texts.target_lengths.tolist() == levels.tolist()  # a token each
    assert "nothing was done" in done(run(*command))
    assert "other options (id_codes)" in refused(run(*command[:-3], "2x5", *command[-2:]))
    np.save(folder / "v.npy", np.random.default_rng(1).normal(size=(50, 6)))
    assert "other source files" in refused(run(*command))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--item_ids", "pq"], "--item_ids pq names items in tokens of their own: .*--item_tokens"),
        (["--item_tokens", "--vocab_size", 400], "has a piece for each id already"),
        (["--id_codes", "2x4"], "--id_codes is about ids that are codes"),
        (["--id_vectors", "titles"], "--id_vectors is about ids that are codes"),
        (
            ["--item_ids", "pq", "--vocab_size", 400],
            "--id_codes 3x256: the catalogue has 7 items, fewer than the 256 codes",
        ),
        (
            ["--item_ids", "pq", "--vocab_size", 400, "--id_vectors", "brands"],
            "--id_vectors is 'brands': expected 'titles', 'co_occurrence', 'both', or a file",
        ),
        (
            ["--item_ids", "pq", "--vocab_size", 400, "--id_codes", "2x3", "--id_vectors", "v.npy"],
            r"v.npy: holds numbers of the shape \(8, 3\), but there are 7 items",
        ),
    ],
)
def test_ids_that_cannot_be_are_told_and_nothing_is_left(files, monkeypatch, options, message):
    monkeypatch.chdir(files)
    np.save("v.npy", np.zeros((8, 3)))
    assert re.search(message, refused(recbole(files, *options)))
    assert not (files / "d").exists() or list((files / "d").iterdir()) == []


def test_sizes_of_ids_that_are_none(files):
    for text in ("256", "3x", "21x4", "3x256x2"):
        result = recbole(files, "--item_ids", "pq", "--id_codes", text)
        assert result.exit_code == 2
        assert "is not LEVELSxCODES, such as 3x256" in result.stderr


@pytest.mark.parametrize("option", ["--user_field", "--vocabulary", "--id_vectors"])
def test_a_value_that_is_empty_is_no_default(files, option):
    result = recbole(files, option, "")
    assert result.exit_code == 2
    assert "it names nothing" in result.stderr


def test_a_file_whose_name_is_not_utf8(files):
    name = os.fsdecode(b"caf\xe9.inter")
    (files / "x.inter").rename(files / name)
    options = ["--name", "x", "--data_dir", files / "d"]
    done(run("recbole", "--inter", files / name, *options))
    assert domains.load("x", files / "d").statistics["sources"]["interactions"]["file"] == name
    assert "already prepared" in done(run("recbole", "--inter", files / name, *options))
    options[-1] = files / os.fsdecode(b"\xe9")
    assert "UTF-8" in refused(run("recbole", "--inter", files / name, *options))


def test_the_default_data_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path))
    done(run("toyshop", "--users", 20, "--items", 40, "--name", "corner"))
    assert domains.list_prepared() == ["corner"]


def test_users_without_a_time_are_told(files):
    (files / "x.inter").write_text(INTER.replace("\t1\n", "\t\n", 1))
    assert "warning: 1 of 4 users have an event without a time" in recbole(files).stderr


def test_wrong_use(files):
    assert "cannot name a domain" in refused(
        run("recbole", "--inter", files / "x.inter", "--name", "My-Shop")
    )
    assert "No such file" in refused(run("recbole", "--inter", files / "none", "--name", "x"))
    assert "give one" in refused(
        recbole(files, "--vocab_size", 400, "--vocabulary", files / "x.item")
    )
    assert run("recbole", "--name", "x").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("table", "--interactions"),
        ("recbole", "--inter"),
        ("amazon2014", "--reviews"),
        ("amazon2023", "--reviews"),
        ("movielens", "--path"),
    ],
)
def test_a_domain_needs_a_name(files, arguments):
    result = run(*arguments, files / "x.inter")
    assert result.exit_code == 2
    assert "Missing option '--name'" in result.stderr


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


def test_neither_tensorflow_nor_jax_is_imported(files):
    words = ["recbole", "--inter", "x.inter", "--item", "x.item", "--name", "x", "--data_dir", "d"]
    program = (
        "import sys; from click.testing import CliRunner; from recalign.cli.prepare import prepare;"
        f"result = CliRunner().invoke(prepare, {words}); assert result.exit_code == 0, result;"
        "print(sorted({'tensorflow', 'jax', 'seqio'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_importing_the_command_costs_only_click():
    program = (
        "import sys, recalign.cli.prepare; "
        "print([m for m in ('numpy', 'pandas', 'tensorflow', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def csv(rows):
    header = ["user_id", "item_id", "timestamp", "rating"]
    return "".join(",".join(map(str, row)) + "\n" for row in [header, *rows])


ROWS = [
    (f"u{u}", f"i{(3 * u + n) % 12}", 100 * n + u, n % 5 + 1) for u in range(6) for n in range(5)
]


@pytest.fixture
def table_of(tmp_path):
    """Prepares a table of rows, with further options."""

    def prepare_table(rows, *more, name="x", stdin=None):
        path = tmp_path / f"{name}.csv"
        path.write_text(csv(rows))
        return run(
            "table", "--interactions", path, "--name", name, "--data_dir", tmp_path / "d", *more,
            stdin=stdin,
        )  # fmt: skip

    return prepare_table


def test_the_fingerprint_is_of_all_values_and_of_nothing_else(table_of, tmp_path):
    def fingerprint(rows, *more, name="x"):
        done(table_of(rows, *more, "--overwrite", name=name))
        found = domains.fingerprint(name, tmp_path / "d")
        statistics = json.loads((tmp_path / "d" / name / "statistics.json").read_text())
        assert statistics["fingerprint"] == found
        return found

    first = fingerprint(ROWS)
    assert fingerprint(ROWS) == fingerprint(ROWS, name="y") == first
    # The users' lines in another order are the same domain; two users' events exchanged are not.
    assert fingerprint(sorted(ROWS, key=lambda row: row[0], reverse=True)) == first
    exchange = {"u1": "u2", "u2": "u1"}
    others = [(exchange.get(user, user), *row) for user, *row in ROWS]
    changed = [
        fingerprint(others),
        fingerprint(ROWS, "--seed", 1),
        fingerprint([(*row, 6 - rating) for *row, rating in ROWS]),
        fingerprint([(user, item, -time, rating) for user, item, time, rating in ROWS]),
    ]
    assert len({first, *changed}) == 5


def test_a_table_by_standard_input(table_of, tmp_path):
    done(table_of(ROWS))
    packed = gzip.compress(csv(ROWS).encode())
    arguments = ["table", "--interactions", "-", "--name", "y", "--data_dir", tmp_path / "d"]
    done(run(*arguments, stdin=packed))
    assert domains.fingerprint("y", tmp_path / "d") == domains.fingerprint("x", tmp_path / "d")
    assert "already prepared" in done(run(*arguments, stdin=packed))
    assert "standard input" in refused(run(*arguments, "--items", "-", stdin=packed))


def test_a_folder_and_a_pattern_are_the_same_domain(table_of, tmp_path):
    done(table_of(ROWS))
    for part in range(3):
        (tmp_path / f"part-{part}.csv").write_text(csv(ROWS[10 * part : 10 * part + 10]))
    arguments = ["table", "--interactions", tmp_path / "part-*.csv", "--data_dir", tmp_path / "d"]
    done(run(*arguments, "--name", "y"))
    assert domains.fingerprint("y", tmp_path / "d") == domains.fingerprint("x", tmp_path / "d")
    assert "already prepared" in done(run(*arguments, "--name", "y"))
    (tmp_path / "part-1.csv").write_text(csv(ROWS[10:19]))
    assert "other source files" in refused(run(*arguments, "--name", "y"))


@pytest.mark.parametrize("role", ["title", "brand", "categories", "catalogue-item"])
def test_a_column_of_items_without_items(table_of, files, role):
    option = f"--{role}-column"
    assert f"{option} is about the item table" in refused(table_of(ROWS, option, "title"))
    inter = ["recbole", "--inter", files / "x.inter", "--name", "x", "--data_dir", files / "d"]
    assert "is about the item table" in refused(run(*inter, f"--{role}-field", "title"))


def test_all_items_of_no_metadata(tmp_path):
    (tmp_path / "r.json").write_text('{"reviewerID": "u", "asin": "a"}\n' * 3)
    arguments = ["amazon2014", "--reviews", tmp_path / "r.json", "--name", "x", "--all_items"]
    assert "--all_items is about the item table" in refused(run(*arguments))


def test_repeated_interactions_are_said_to_be_kept_or_left_out(table_of, tmp_path):
    rows = [*ROWS, ROWS[0], ROWS[4]]
    result = table_of(rows)
    assert "repeated interactions, which are kept: 2" in done(result)
    assert "2 interactions repeat an earlier one" in result.stderr
    assert "--drop_duplicates" in result.stderr
    assert domains.load("x", tmp_path / "d").statistics["interactions"] == len(rows)
    message = refused(table_of(rows, "--drop_duplicates"))
    assert "other options (drop_duplicates)" in message
    result = table_of(rows, "--drop-duplicates", "--overwrite")
    assert "duplicate interactions dropped 2" in done(result)
    assert "repeat" not in result.stderr
    assert domains.load("x", tmp_path / "d").statistics["interactions"] == len(ROWS)


def test_tasks_that_will_have_nothing_to_train_on_are_told(table_of):
    three = [row for row in ROWS if row[2] < 300]
    assert "x_retrieval, ranking, bpr, mim and mlm have no train samples" in table_of(three).stderr
    # Each of three users has both items twice, so BPR has no negative.
    full = [(f"u{u}", f"i{n % 2}", n, 5) for u in range(3) for n in range(5)]
    result = table_of(full, name="y")
    assert "every user has had every item, so y_bpr has no train samples" in result.stderr
    few = [(user, item, 7, "NaN") for user, item, *_ in ROWS]
    told = table_of(few, name="z").stderr
    assert "so there is no z_rating" in told
    assert "all 30 events have the same time, so file order decides" in told
    undated = [(user, item, "NaN", rating) for user, item, _, rating in ROWS]
    for name, rows in (("w", ROWS), ("v", undated)):
        told = table_of(rows, name=name).stderr
        assert "no train samples" not in told
        assert "the same time" not in told


def test_ids_that_seem_to_be_missing_are_told(table_of):
    nobody = [(r"\N", item, time, rating) for _, item, time, rating in ROWS[:4]]
    told = table_of([*ROWS, *nobody, ("u0", "NULL", 900, 1)]).stderr
    assert r"there is a user '\\N', as programs write what is missing" in told
    assert "there is an item 'NULL'" in told
    assert "as programs write" not in table_of(ROWS, name="y").stderr


def test_a_vocabulary_that_is_too_small_says_how_many_pieces_it_takes(tmp_path):
    arguments = ["toyshop", "--users", 20, "--items", 40, "--data_dir", tmp_path / "d"]
    message = refused(run(*arguments, "--vocab_size", 10))
    assert "--vocab_size 10 is too small" in message
    assert "character_coverage" not in message
    needed = [int(word) for word in message.replace(";", " ").split() if word.isdigit()][1]
    assert "too small" in refused(run(*arguments, "--vocab_size", needed - 1))
    done(run(*arguments, "--vocab_size", needed))
