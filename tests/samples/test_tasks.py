"""What the samples of every task say, against the events that they come from."""

import contextlib
import copy
import hashlib
import inspect
import itertools
import pickle
import re
from collections import Counter

import gin
import numpy as np
import pytest
import seqio

from recalign import domains, prompts
from recalign.errors import UserError
from recalign.samples import inputs, judged, registry
from recalign.samples.items import SENTINELS, domain_vocabulary, item_texts
from recalign.samples.questions import Questions
from tests.commands import run
from tests.samples.reading import LENGTHS, fits, items_in, read
from tests.splits import history as history_of


@pytest.mark.parametrize("split", ["validation", "test"])
def test_retrieval_asks_for_the_held_out_item_of_each_user(shop, split):
    expected = shop.split(split)
    samples = list(read("testshop_retrieval", split, lengths=None))
    assert len(samples) == len(expected)
    for e, sample in enumerate(samples):
        assert items_in(sample["targets"]) == [expected.targets[e]] == [sample["item"]]
        np.testing.assert_array_equal(sample["seen"], history_of(expected, e))
        assert items_in(sample["inputs"]) == history_of(expected, e)[-20:].tolist()
        assert fits(prompts.RETRIEVAL[0], sample["inputs"])


def test_retrieval_trains_on_every_position_of_the_train_prefix(shop):
    train = shop.train()
    expected = Counter(
        (tuple(prefix[:position][-20:]), prefix[position])
        for prefix in np.split(train.events, train.offsets[1:-1])
        for position in range(1, len(prefix))
    )
    found = Counter(
        (tuple(items_in(sample["inputs"])), items_in(sample["targets"])[0])
        for sample in read("testshop_retrieval", "train", lengths=None)
    )
    assert found == expected


def test_a_history_is_written_as_ids_and_titles(shop):
    titles = shop.items["title"]
    sample = next(read("testshop_retrieval", "test"))
    for index in items_in(sample["inputs"]):
        assert f"#{index:02d} {titles[index]};" in sample["inputs"]


@pytest.mark.parametrize("kind", ["retrieval", "mim", "mlm", "bpr"])
def test_too_long_a_history_drops_its_oldest_items_and_never_cuts_a_question(shop, kind):
    templates = getattr(prompts, kind.upper())
    short = {"inputs": 90, "targets": 24}
    whole = {"inputs": 100_000, "targets": 100_000}
    name, dropped = f"testshop_{kind}", 0
    for cut, full in zip(
        read(name, "train", short), read(name, "train", whole), strict=kind in ("retrieval", "bpr")
    ):
        assert cut["inputs_tokens"] <= short["inputs"]
        assert cut["targets_tokens"] <= short["targets"]
        assert any(fits(template, cut["inputs"]) for template in templates)
        if kind in ("retrieval", "bpr"):  # the others draw new masks for a shorter history
            kept, all_items = items_in(cut["inputs"]), items_in(full["inputs"])
            assert kept == all_items[len(all_items) - len(kept) :]
            dropped += len(kept) < len(all_items)
            assert cut["targets"] == full["targets"]
    assert dropped or kind in ("mim", "mlm")


def test_trimming_counts_tokens_exactly(shop):
    """One more item would not have fitted."""
    items = item_texts("testshop", str(shop.path.parent))
    vocabulary = seqio.TaskRegistry.get("testshop_retrieval").output_features["inputs"].vocabulary
    limit = {"inputs": 90, "targets": 24}
    tested = 0
    for sample, full in zip(
        read("testshop_retrieval", "test", limit),
        read("testshop_retrieval", "test", None),
        strict=True,
    ):
        kept = items_in(sample["inputs"])
        if len(kept) < len(items_in(full["inputs"])):
            history = items_in(full["inputs"])[-len(kept) - 1 :]
            text = prompts.RETRIEVAL[0].format(history=" ".join(items.history[history]))
            assert len(vocabulary.encode(text)) + 1 > limit["inputs"]
            tested += 1
    assert tested > 10


def test_mim_targets_fill_the_sentinels_of_a_history(shop):
    histories = {tuple(h) for h in np.split(shop.train().events, shop.train().offsets[1:-1])}
    share = []
    for sample in read("testshop_mim", "train", lengths=None):
        answers = dict(re.findall(r"<extra_id_(\d+)> #(\d+)", sample["targets"]))
        assert list(answers) == [str(i) for i in range(len(answers))]
        assert len(answers) >= 1
        filled = re.sub(
            r"<extra_id_(\d+)>", lambda m, answers=answers: "#" + answers[m[1]], sample["inputs"]
        )
        window = items_in(filled)
        assert any(
            tuple(window) == history[start : start + len(window)]
            for history in histories
            for start in range(len(history))
        )
        share.append(len(answers) / len(window))
    assert 0.15 < np.mean(share) < 0.4  # the rate is 0.2, and at least one of a short history


@pytest.fixture
def configured():
    """Binds options of tasks."""
    return gin.bind_parameter


def test_the_newest_items_are_shown(shop, configured):
    configured("retrieval.retrieval.max_history", 3)
    longer = 0
    for sample in read("testshop_retrieval", "test", lengths=None):
        assert items_in(sample["inputs"]) == sample["seen"][-3:].tolist()
        longer += len(sample["seen"]) > 3
    assert longer > 10


def test_items_stand_in_a_question_where_it_was_written_whatever_is_configured_since(
    shop, configured
):
    ask = Questions(seqio.TaskRegistry.get("testshop_retrieval"), LENGTHS)
    history = [3, 1, 4]
    [question] = ask([history]).inputs
    places = ask.places(history, question)
    configured("item_texts.history_form", "id")
    assert ask.places(history, question) == places
    assert [place.stop for place in places[:-1]] == [place.start for place in places[1:]]


def test_mim_hides_as_many_items_as_targets_have_room_for(shop, configured):
    configured("mim.mim.mask_rate", 1.0)
    found = set()
    for sample in read("testshop_mim", "train", lengths=LENGTHS | {"targets": 9}):
        hidden, shown = items_in(sample["targets"]), items_in(sample["inputs"])
        # Each takes two tokens with its sentinel, and EOS follows.
        assert len(hidden) == min(len(hidden) + len(shown), 4)
        assert sample["inputs"].count("<extra_id_") == len(hidden)
        found.add(len(hidden) + len(shown))
    assert max(found) > 4 > min(found)


def test_mlm_is_span_corruption_of_the_history(shop):
    vocabulary = seqio.TaskRegistry.get("testshop_mlm").output_features["inputs"].vocabulary
    histories = {
        " ".join(item_texts("testshop", str(shop.path.parent)).history[h])
        for h in np.split(shop.train().events, shop.train().offsets[1:-1])
    }
    noise = total = 0
    for sample in read("testshop_mlm", "train", lengths=None):
        spans = re.split(r"<extra_id_\d+>", sample["targets"])[1:]
        restored = re.sub(
            r"<extra_id_(\d+)>", lambda m, spans=spans: spans[int(m[1])], sample["inputs"]
        )
        text = "".join(restored.split())
        assert any("".join(history.split()) in text for history in histories)
        noise += sample["targets_tokens"] - 1 - len(spans)
        total += sample["inputs_tokens"]
    assert 0.1 < noise / total < 0.16  # density 0.15 of the history, none of the question
    assert vocabulary.decode([vocabulary.vocab_size - 1]).strip() == "<extra_id_0>"


def test_bpr_sets_the_next_item_against_one_never_touched(shop):
    train = shop.train()
    touched = [set(h) for h in np.split(train.events, train.offsets[1:-1])]
    first_is_right = negatives = 0
    for sample in read("testshop_bpr", "train", lengths=None):
        *history, first, second = items_in(sample["inputs"])
        [positive] = items_in(sample["targets"])
        negative = second if first == positive else first
        assert positive in (first, second)
        owners = [t for t in touched if {*history, positive} <= t]
        assert any(negative not in t for t in owners)
        first_is_right += first == positive
        negatives += 1
    assert 0.4 < first_is_right / negatives < 0.6


@pytest.mark.parametrize("kind", ["retrieval", "mim", "mlm", "bpr"])
def test_every_epoch_is_new_and_a_seed_repeats_it(shop, kind):
    def texts(seed, epochs):
        name = f"testshop_{kind}"
        return [s["inputs"] + s["targets"] for s in read(name, "train", None, seed, epochs=epochs)]

    two_epochs = texts(1, 2)
    first, second = two_epochs[: len(two_epochs) // 2], two_epochs[len(two_epochs) // 2 :]
    assert first != second
    assert sum(a != b for a, b in zip(first, second, strict=True)) > len(first) / 3
    assert texts(1, 2) == two_epochs
    assert texts(2, 2) != two_epochs


def test_every_paraphrase_is_used_in_training(shop):
    samples = list(read("testshop_retrieval", "train", lengths=None))
    for template in prompts.RETRIEVAL:
        assert sum(fits(template, s["inputs"]) for s in samples) > len(samples) / 10


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "rating", "mim", "mlm", "bpr"])
def test_users_are_never_named(rated, kind):
    assert all(len(key) > 4 for key in rated.user_keys)  # none is part of a word by chance
    for split in ("train", "test"):
        for sample in read(f"ratedshop_{kind}", split, {"inputs": 220, "targets": 64}):
            text = sample["inputs"] + sample["targets"]
            assert not any(key in text for key in rated.user_keys)


def test_a_target_that_does_not_fit_is_named(shop):
    with pytest.raises(UserError, match=r"testshop_retrieval: the target '#\d\d' needs 2 tokens"):
        next(read("testshop_retrieval", "train", {"inputs": 160, "targets": 1}))
    with pytest.raises(UserError, match=r"testshop_mim: the target '#\d\d' needs 3 tokens"):
        next(read("testshop_mim", "train", {"inputs": 160, "targets": 2}))


@pytest.mark.parametrize(("kind", "least"), [("retrieval", 2), ("bpr", 2), ("mim", 3)])
def test_the_least_length_of_targets_is_enough(shop, kind, least):
    found = read(f"testshop_{kind}", "train", {"inputs": 160, "targets": least})
    assert {sample["targets_tokens"] for sample in found} == {least}


def test_a_question_that_does_not_fit_is_named(shop):
    with pytest.raises(UserError, match="testshop_mim: its longest question"):
        next(read("testshop_mim", "train", {"inputs": 8, "targets": 64}))


def test_the_aligned_mixture_draws_evenly_from_all_five(shop):
    mixture = seqio.MixtureRegistry.get("testshop_aligned")
    dataset = mixture.get_dataset(LENGTHS, "train", shuffle=True, seed=0, num_epochs=None)
    vocabulary = mixture.output_features["inputs"].vocabulary
    counts = Counter()
    for example in dataset.take(800).as_numpy_iterator():
        text = vocabulary.decode(example["inputs"].tolist())
        kinds = [
            k
            for k in ("RETRIEVAL", "RANKING", "MIM", "MLM", "BPR")
            if any(fits(template, text) for template in getattr(prompts, k))
        ]
        counts[tuple(kinds)] += 1
    assert len(counts) == 5
    assert all(len(kinds) == 1 for kinds in counts)
    assert min(counts.values()) > 120


def test_a_name_of_nothing_is_answered_with_its_domain_or_with_what_is_like_it(
    shop, tmp_path, monkeypatch
):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path))
    gone = r"'testshop_2' is not prepared in .* \(prepared there: none\): .*_dir; did you mean"
    for kind in ("retrieval", "retrieval_only", "aligned"):
        with pytest.raises(UserError, match=gone):
            inputs.mixture_or_task(f"testshop_2_{kind}")
    with pytest.raises(UserError, match=r"'testshop_alined'; did you mean testshop_aligned"):
        inputs.mixture_or_task("testshop_alined")


def test_a_module_that_misses_another_is_not_said_to_be_missed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks_of_mine.py").write_text("import tasks_of_nobody\n")
    with pytest.raises(UserError, match="tasks_of_mine needs 'tasks_of_nobody', which is not"):
        inputs.import_tasks("tasks_of_mine")
    for absent in ("tasks_of_nobody", "tasks_of_nobody.deep", "recalign.tasks_of_nobody"):
        with pytest.raises(UserError, match=f"there is no module '{absent}'"):
            inputs.import_tasks(absent)


def test_a_module_is_imported_before_anything_is_read_of_its_tasks(shop, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    readers = [
        lambda name, module: inputs.train_batches(name, LENGTHS, 4, 0, module),
        lambda name, module: judged.examples(name, LENGTHS, "test", module),
        judged.catalogue,
        inputs.vocabulary_size,
        inputs.provenance,
    ]
    for number, read_of in enumerate(readers):
        name, module = f"late_{number}", f"late_tasks_{number}"
        text = f"import seqio\nseqio.MixtureRegistry.add('{name}', ['testshop_retrieval'], 0.0)\n"
        (tmp_path / f"{module}.py").write_text(text)
        with contextlib.suppress(UserError):  # nothing is drawn from it
            read_of(name, module)
        assert name in seqio.MixtureRegistry.names()


def test_parameters_belong_to_what_the_vocabulary_and_the_domain_hold(shop):
    """As earlier versions wrote it, whose runs would be refused otherwise."""
    whole = seqio.SentencePieceVocabulary(str(shop.path / "spiece.model"), extra_ids=SENTINELS)
    assert inputs.provenance("testshop_aligned") == {
        "vocabulary": f"sha256 {hashlib.sha256(whole.sp_model).hexdigest()[:16]}",
        "domain testshop": f"content {domains.fingerprint('testshop', shop.path.parent)}",
    }


def test_tasks_of_the_default_data_folder_follow_it(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    shop = ["prepare", "toyshop", "--users", "30", "--items", "30", "--name", "moved"]
    for folder in (a, b):
        run(*shop, "--data_dir", folder)
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(b))
    registry.register_domain("moved")
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(a))
    task = inputs.mixture_or_task("moved_retrieval")
    assert registry.domain_of(task) == ("moved", str(a))
    registry.register_domain("moved", str(b))  # a folder of its own, which it keeps
    task = inputs.mixture_or_task("moved_retrieval")
    assert registry.domain_of(task) == ("moved", str(b))


def test_a_domain_that_is_prepared_anew_is_another_one_in_the_same_process(tmp_path, monkeypatch):
    """Its vocabulary, its items and its users, of which SeqIO keeps what it read of their paths."""
    own = tmp_path / "own"
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path))
    shops = (30, 30, 400), (50, 40, 450), (30, 30, 500)
    for folder, (users, items, size) in itertools.product((None, own), shops):
        shop = ["--name", "anew", "--users", users, "--items", items, "--vocab_size", size]
        data_dir = ["--data_dir", folder] if folder else []
        run("prepare", "toyshop", *shop, *data_dir, "--overwrite")
        if size == 400:
            registry.register_domain("anew", folder and str(folder))
        domain = domains.load("anew", folder)
        task = inputs.mixture_or_task("anew_retrieval")
        pieces = domain.statistics["vocabulary_pieces"]
        assert inputs.vocabulary_size("anew_aligned") == pieces + SENTINELS
        written = item_texts("anew", str(domain.path.parent)).target_tokens
        assert (len(written), written.max()) == (items, pieces - 1)
        assert len([*read("anew_retrieval", "test")]) == domain.num_examples("test")
        assert task.source.num_input_examples("test") == domain.num_examples("test")
        assert any(str(items - 1) in text["targets"] for text in read("anew_retrieval", "train"))


def test_a_vocabulary_of_a_domains_own_is_what_seqio_makes_of_its_file(shop):
    ours = domain_vocabulary("testshop", str(shop.path.parent))
    theirs = seqio.SentencePieceVocabulary(str(shop.path / "spiece.model"), extra_ids=SENTINELS)
    assert ours.sp_model == theirs.sp_model
    text = f"The toy box; {shop.items['title'][3]} <extra_id_0> é"
    assert ours.encode(text) == theirs.encode(text) == ours.encode_tf(text).numpy().tolist()
    assert ours == copy.deepcopy(ours) == domain_vocabulary("testshop", str(shop.path.parent))


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "mim", "mlm", "bpr"])
def test_preprocessors_go_to_other_processes_and_ask_for_what_seqio_gives(shop, kind):
    """As they do where Apache Beam caches a task."""
    steps = seqio.TaskRegistry.get(f"testshop_{kind}").preprocessors
    again = pickle.loads(pickle.dumps(steps))
    assert len(again) == len(steps)
    [_, _, to_sample, *_, to_tokens] = again
    for step in (to_sample, to_tokens):
        assert {"dataset", "sequence_length", "output_features"} <= {
            *inspect.signature(step).parameters
        }


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "retrieval.templates is empty"),
        (["What is next?"], "holds 'What is next?', but each must have {history} once"),
        (["{history} What?", "{histori} What?"], "holds '{histori} What?', but each must have"),
        (["{history} {history}"], "holds '{history} {history}', but each must have"),
        (["{history} {item}"], "holds '{history} {item}', but each must have"),
        (["{history} { What?"], "holds '{history} { What?', but each must have"),
        (["{history} {}"], "holds '{history} {}', but each must have"),
        (["{history:>9} What?"], "holds '{history:>9} What?', but each must have {history} once"),
        (["{history!r} What?"], "holds '{history!r} What?', but each must have {history} once"),
        (["({history})"], "holds '({history})', but {history} must come first or after a space"),
        (["Bought:{history} What?"], "{history} must come first or after a space: pieces of ids"),
    ],
)
def test_questions_of_ones_own_have_the_fields_of_their_kind(templates, message):
    gin.bind_parameter("retrieval.templates", templates)
    with pytest.raises(UserError, match=re.escape(message)):
        next(read("testshop_retrieval", "test"))
    gin.bind_parameter("retrieval.templates", ["After {history} comes {{what}}?"])
    assert next(read("testshop_retrieval", "test"))["inputs"].endswith("comes {what}?")
