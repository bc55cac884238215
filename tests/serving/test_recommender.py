"""`recalign recommend`: any history, answered as the evaluation would."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign import domains
from recalign.cli import recalign
from recalign.engine.search.trie import CatalogueIndex
from recalign.errors import UserError
from recalign.runs.run import load
from recalign.samples.registry import register_domain
from recalign.serving import histories as history_files
from recalign.serving.app import Asked, Limits, Service
from recalign.serving.recommender import of_run
from recalign.t5x.bindings import items_only
from tests.commands import SMALL_NETWORK, run

SMALL = [
    "--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 32}",
    "--gin.TRAIN_STEPS=1",
    "--gin.EVAL_EXAMPLES=4",
    *SMALL_NETWORK,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={path}", *SMALL)
    return path


@pytest.fixture(scope="module")
def domain(folder):
    return domains.load("toyshop")


@pytest.fixture(scope="module")
def trained(folder):
    return load(str(folder))


@pytest.fixture(scope="module")
def recommender(trained):
    return of_run(trained)


def test_questions_are_the_inputs_of_the_task(trained):
    """Over all users, of whom many have more than fits in 96 tokens."""
    for split in ("validation", "test"):
        examples = trained.retrieval_examples(split, None)
        histories = np.split(examples.events, examples.offsets[1:-1])
        asked = trained.data.questions(examples.task)(histories).inputs
        assert len(asked) == len(examples.inputs) > 64
        for ours, theirs in zip(asked, examples.inputs, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        full = sum(len(tokens) > 96 - 16 for tokens in asked)
        assert 0 < full < len(asked)


def test_every_item_of_a_history_is_found_in_its_question(trained, domain):
    """The newest ones are, as they are written there; those that are cut off are not."""
    examples = trained.retrieval_examples("test", None)
    histories = [h.tolist() for h in np.split(examples.events, examples.offsets[1:-1])]
    ask = trained.data.questions(examples.task)
    cut = 0
    for history, tokens in zip(histories, ask(histories).inputs, strict=True):
        places = ask.places(history, tokens)
        shown = [place for place in places if place.stop]
        assert places == [slice(0, 0)] * (len(history) - len(shown)) + shown
        texts = [trained.data.decode(tokens[place].tolist()) for place in shown]
        for item, text in zip(history[len(history) - len(shown) :], texts, strict=True):
            assert text.startswith(domain.item_ids[item])
        question = trained.data.decode(tokens.tolist())
        assert sum(question.count(domain.item_ids[item]) for item in {*history}) == len(shown)
        assert [place.stop for place in shown[:-1]] == [place.start for place in shown[1:]]
        cut += len(shown) < len(history)
    assert 0 < cut < len(histories)


def test_what_is_looked_at_is_at_most_all(recommender):
    asked = [([3, 1, 4], 7), ([15], 15), (list(range(60)), 2)]
    found = recommender.looked_at(asked)
    assert [len(shares) for shares in found] == [3, 1, 60]
    for shares in found:
        assert 0 < sum(shares) < 1
    assert found[2][0] == 0 < found[2][-1]
    assert recommender.looked_at(asked[1:2])[0] == pytest.approx(found[1], abs=1e-6)


def test_recommendations_are_what_evaluation_ranks(trained, recommender):
    examples = trained.retrieval_examples("test", None)
    every, unseen = trained.evaluation.catalogue_model(examples).rank(
        trained.restore()[1], examples.inputs, examples.offsets, examples.events
    )
    histories = np.split(examples.events, examples.offsets[1:-1])[:9]
    for wanted, include_seen in ((every, True), (unseen, False)):
        found = recommender.recommend(histories, 10, include_seen=include_seen)
        np.testing.assert_allclose(found.scores, wanted.scores[:9, :10], atol=1e-5)
        np.testing.assert_array_equal(found.items, wanted.items[:9, :10])


def test_exact_and_a_beam_over_everything_agree(trained, recommender):
    histories = [[3, 1, 4], [15]]
    beam = recommender.recommend(histories, 1000)
    exact = of_run(trained, exact=True).recommend(histories, 1000)
    np.testing.assert_array_equal(beam.items, exact.items)
    np.testing.assert_allclose(beam.scores, exact.scores, atol=1e-4)
    for history, items in zip(histories, beam.items, strict=True):
        assert sorted([*history, *items[items >= 0]]) == list(range(60))


def test_the_index_of_the_catalogue_is_built_once_and_mapped(folder, domain, monkeypatch):
    [kept] = domain.path.glob("index-*")  # since the fixture trained

    def build(*_):
        raise AssertionError("it is there already")

    options = ("--model_dir", folder, "--history", "#07", "--json")
    before = run("recommend", *options)
    monkeypatch.setattr(CatalogueIndex, "build", build)
    assert run("recommend", *options) == before
    run("eval", "--model_dir", folder)
    run("infer", "--model_dir", folder, "--output", folder / "predictions.jsonl")
    items_only("toyshop_retrieval_only", "recalign.tasks")
    assert [*domain.path.glob("*index-*")] == [kept]


def test_a_recipe_may_renormalise(tmp_path, folder):
    options = (*SMALL, "--gin.Inference.renormalise=True")
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *options)
    asked = ("--history", "#07,#33", "--include_seen", "--k", 60, "--json")

    def total(model_dir, *options):
        answer = json.loads(run("recommend", "--model_dir", model_dir, *asked, *options))
        assert len(answer["items"]) == 60
        # Whatever the scores are, these are of the catalogue's items alone.
        assert sum(row["probability"] for row in answer["items"]) == pytest.approx(1, abs=1e-4)
        return sum(np.exp(row["score"]) for row in answer["items"])

    assert total(tmp_path) == pytest.approx(1, abs=1e-4)
    assert total(tmp_path, "--exact") == pytest.approx(1, abs=1e-4)
    assert total(folder) < 0.99


def test_no_request_waits_for_a_compilation(recommender, compilations):
    """Histories of 1 to 100 items, with or without their own, alone, eight at a time, and why."""
    service = Service(recommender, Limits())
    rng = np.random.default_rng(0)
    with compilations() as found:
        service.warm_up()
        ready = len(found)
        assert ready <= 3  # inputs have 96 tokens at most; a ranking of one or eight, and a reason
        for number in range(1, 101):
            history = rng.integers(0, 60, number).tolist()
            asked = Asked(history, 5, include_seen=number % 2 == 0)
            [rows] = service.answer([asked])
            assert len(rows) == (5 if asked.include_seen else min(5, 60 - len({*history})))
            [shares] = recommender.looked_at([(history, number % 60)])
            assert len(shares) == number
        service.answer([asked] * 8)
        assert len(found) == ready


def test_a_user_has_a_table(folder, domain):
    user = 5
    lines = run("recommend", "--model_dir", folder, "--user", domain.user_keys[user], "--k", 3)
    head, *rows = lines.splitlines()
    assert head.split() == ["rank", "score", "id", "item", "title", "brand"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    keys = domain.items["key"].tolist()
    items = [keys.index(row.split()[2]) for row in rows]
    assert [row.split()[3] for row in rows] == [f"#{item:02d}" for item in items]
    for row, item in zip(rows, items, strict=True):
        assert domain.items["title"][item] in row
        assert domain.items["brand"][item] in row
    assert not set(items) & set(domain.events[slice(*domain.offsets[user : user + 2])])


def test_a_table_fits_the_terminal(folder, domain, monkeypatch):
    """A title of 2,000 characters is cut; ids stay whole; the second title is short enough."""
    monkeypatch.setenv("COLUMNS", "70")
    titles = domain.items["title"].to_numpy(copy=True)
    titles[:] = "Ball"
    titles[::2] = "x" * 2000
    # A copy: the table is every caller's in this process.
    titled = dataclasses.replace(domain, items=domain.items.assign(title=titles))
    monkeypatch.setattr(domains, "load", lambda *_: titled)
    lines = run("recommend", "--model_dir", folder, "--history", "#07", "--k", 59).splitlines()
    assert max(map(len, lines)) == 70
    assert len(lines) == 60
    keys = set(domain.items["key"])
    for line in lines[1:]:
        _, _, key, item, *_ = line.split()
        assert key in keys
        assert ("x…" in line) == (int(item[1:]) % 2 == 0)


def test_json_is_json_in_any_encoding(folder, domain, monkeypatch):
    named = dataclasses.replace(domain, items=domain.items.assign(title="Bällé 店 🎈"))
    monkeypatch.setattr(domains, "load", lambda *_: named)
    asked = ["recommend", "--model_dir", str(folder), "--history", "#07", "--json"]
    for charset in ("latin-1", "utf-8"):
        found = CliRunner(charset=charset).invoke(recalign, asked)
        assert {row["title"] for row in json.loads(found.stdout)["items"]} == {"Bällé 店 🎈"}
    assert "店 🎈" in found.stdout


def test_who_has_bought_everything_is_told_so(folder, domain):
    everything = ("--model_dir", folder, "--history", ",".join(domain.items["key"]))
    assert run("recommend", *everything).strip() == (
        "the history holds all 60 items of toyshop, so none is left to recommend: --include_seen "
        "ranks them"
    )
    assert json.loads(run("recommend", *everything, "--json"))["items"] == []
    assert len(run("recommend", *everything, "--include_seen").splitlines()) == 11


def test_a_file_is_answered_line_by_line(folder, domain, tmp_path):
    keys = domain.items["key"].tolist()
    path = tmp_path / "histories"
    path.write_text(f'{keys[7]}, {keys[3]}\n["{keys[3]}"]\n{{"history": ["#07"], "target": "x"}}\n')
    options = ("--model_dir", folder, "--k", 4)
    lines = [json.loads(s) for s in run("recommend", *options, "--histories", path).splitlines()]
    assert [line["history"] for line in lines] == [[keys[7], keys[3]], [keys[3]], [keys[7]]]
    for line in lines:
        history = ",".join(line["history"])
        assert [row["rank"] for row in line["items"]] == [1, 2, 3, 4]
        alone = json.loads(run("recommend", *options, "--history", history, "--json"))
        assert [row["id"] for row in alone["items"]] == [row["id"] for row in line["items"]]


def test_nothing_is_left_when_all_is_seen(recommender):
    ranked = recommender.recommend([range(60)], 5)
    assert recommender.rows(ranked, 0, range(60)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--history", "toy-0x"], "toyshop has no item 'toy-0x'; did you mean toy-"),
        (["--history", ", ,"], "needs at least one item"),
        (["--history", '"toy'], "ids between commas"),
        (["--user", "user-00z1"], "has no user 'user-00z1'; did you mean user-"),
        (["--user", "user-0001", "--history", "toy-01"], "Give one of"),
        ([], "Give one of"),
        (["--histories", "nowhere"], "nowhere: cannot be read"),
        (["--history", "q" * 10**5], "no item 'q{64}…'; no id is similar"),
    ],
)
def test_mistakes_are_told(folder, options, message):
    with pytest.raises(UserError, match=message):
        run("recommend", "--model_dir", folder, *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"toy-01\n\n", "file:2: a history needs"),
        (b'["toy-01"]\n[1]', "file:2: expected a history as a list"),
        (b'{"items": []}', "file:1: expected a history as a list"),
        (b"[" * 10**5, "file:1: not JSON"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_broken_files_are_told(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        history_files.read(path)


@given(st.binary(max_size=200) | st.text(alphabet='[]{}":,\\n\n history toy-1#', max_size=60))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_histories_or_one_clear_error(tmp_path, content):
    path = tmp_path / "fuzzed"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.suppress(UserError):
        found = history_files.read(path)
        assert found
        assert all(history and all(isinstance(k, str) for k in history) for history in found)


@given(st.lists(st.text(max_size=30) | st.sampled_from(["#07", "toy-01"]), max_size=5))
@settings(deadline=None, max_examples=40)
def test_any_ids_give_items_or_one_clear_error(recommender, keys):
    known = recommender.domain.items["key"].tolist()
    with contextlib.suppress(UserError):
        items = recommender.history(keys)
        assert [known[item] for item in items] == [known[7] if k == "#07" else k for k in keys]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("recommend", ["--history", "toy-01"]),
        ("eval", []),
        ("infer", ["--output", "predictions.jsonl"]),
        ("serve", ["--port", "0"]),
    ],
)
def test_a_run_whose_domain_is_not_there_says_so(folder, tmp_path, monkeypatch, command, options):
    """The name of its mixture is no slip of the hand, and another's does not help."""
    monkeypatch.chdir(tmp_path)
    config = (folder / "config.gin").read_text().replace("toyshop_retrieval", "emptyshop_retrieval")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.gin").write_text(config)
    where = ["--model_dir", tmp_path / "run", "--data_dir", tmp_path / "elsewhere"]
    with pytest.raises(UserError, match=r"'emptyshop' is not prepared in .*elsewhere .*_dir"):
        run(command, *where, *options)
