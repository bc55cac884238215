"""A task without a sample is named, with what it lacks, before anything is trained."""

import math
import re

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.errors import UserError
from recalign.samples import inputs, items, judged, registry
from recalign.samples.registry import mixing_rate
from tests.samples.shops import prepared

LENGTHS = {"inputs": 128, "targets": 32}
OF_EVENTS = ("retrieval", "ranking", "mim", "mlm", "bpr")


def domain_of(name, events, folder, *vocabulary):
    rows = [f"{user},i{item},{time}" for user, items in events for time, item in enumerate(items)]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return prepared(name, folder, "table", "--interactions", f"{folder}/events.csv", *vocabulary)


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scarce")
    three = [(f"u{u}", [(u + e) % 9 for e in range(3)]) for u in range(9)]
    every = [(f"u{u}", [(u + e) % 4 for e in range(4)]) for u in range(9)]
    domain_of("everyshop", [*every, ("v", [4])], folder, "--vocab_size", "400")
    domain_of("otherwise", every, folder, "--vocab_size", "500")
    of_every = "--vocabulary", str(folder / "everyshop/spiece.model")
    domain_of("threeshop", three, folder, *of_every)
    domain_of("wholeshop", every, folder, *of_every)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("./tasks.py", "", "is './tasks.py', but must be a module's name"),
        ("tasks/mine", "", "is 'tasks/mine', but must be a module's name"),
        (".tasks", "", "is '.tasks', but must be a module's name"),
        ("mine_needing", "import nowhere.at_all\n", "mine_needing needs 'nowhere', which is not"),
        ("mine_wrong", "def f(:\n", "mine_wrong is no Python: .*mine_wrong.py, line 1"),
        ("mine_bad", "\n{}['a']", "mine_bad cannot .*: .*mine_bad.py, line 2: KeyError: 'a'"),
        ("mine_exit", "exit('no')", "mine_exit cannot .*: .*exit.py, line 1: SystemExit: no"),
        ("mine_get", "import seqio\nseqio.TaskRegistry.get('no')", ".*get.py, line 2: ValueError"),
    ],
)
def test_a_module_of_tasks_that_cannot_be_imported(name, text, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name.strip('./').replace('/', '_')}.py").write_text(text)
    with pytest.raises(UserError, match=f"^MIXTURE_OR_TASK_MODULE:? {message}"):
        inputs.import_tasks(name)


def train_batches(name):
    return inputs.train_batches(name, LENGTHS, 4, 0)


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("kind", OF_EVENTS)
def test_users_of_three_events_leave_nothing_to_learn_from(kind):
    message = f"threeshop_{kind} has no sample in train: no user of threeshop has two events to"
    with pytest.raises(UserError, match=message):
        train_batches(f"threeshop_{kind}")
    inputs.check_samples(seqio.TaskRegistry.get(f"threeshop_{kind}"), LENGTHS, "test")


@pytest.mark.usefixtures("domains")
def test_rates_are_idle_where_there_is_one_task():
    rates = "recalign.samples.registry.mixing_rate"
    assert rates in inputs.idle(seqio.TaskRegistry.get("wholeshop_retrieval"))
    assert rates not in inputs.idle(seqio.MixtureRegistry.get("wholeshop_retrieval_only"))


@pytest.mark.usefixtures("domains")
def test_a_stream_without_a_record_is_named():
    message = "INPUT_STREAMS is 16, but the records of stream 0 give wholeshop_retrieval no sample"
    with pytest.raises(UserError, match=message):
        inputs.train_batches("wholeshop_retrieval", LENGTHS, 16, 0, streams=16)


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("kind", OF_EVENTS)
def test_one_empty_task_of_a_mixture_is_named(kind):
    name = f"some_{kind}"
    seqio.MixtureRegistry.add(name, ["wholeshop_retrieval", f"threeshop_{kind}"], 1.0)
    mixture = seqio.MixtureRegistry.get(name)
    with pytest.raises(UserError, match=f"threeshop_{kind} has no sample in train"):
        inputs.check_samples(mixture, LENGTHS, "train")


@pytest.mark.usefixtures("domains")
def test_domains_that_share_a_vocabulary_are_mixed_and_no_others():
    shared = seqio.MixtureRegistry.add("some_shared", ["everyshop_mim", "wholeshop_mim"], 1.0)
    assert next(train_batches(shared.name))["encoder_input_tokens"].any()
    seqio.MixtureRegistry.add("some_others", ["wholeshop_mim", "otherwise_mim"], 1.0)
    message = (
        r"some_others mixes (\w+_mim and \w+_mim), whose vocabularies differ: .*--vocabulary F"
    )
    for asked in (inputs.vocabulary_size, train_batches):
        with pytest.raises(UserError, match=message):
            asked("some_others")


@pytest.mark.usefixtures("domains")
def test_users_who_have_every_item_leave_none_to_set_against_another():
    with pytest.raises(UserError, match=r"in test: every .* all 4 .*rates = {'bpr': 0}"):
        inputs.check_samples(seqio.TaskRegistry.get("wholeshop_bpr"), LENGTHS, "test")
    next(train_batches("everyshop_aligned"))  # of the train events alone, some are left


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_reason_is_told_that_is_none(split):
    """Its users have two events to learn from, and only BPR needs an item that they have not."""
    reason = inputs.tell_why_none(seqio.TaskRegistry.get("wholeshop_retrieval"), split)
    assert reason.endswith(f"no sample in {split}: none of its records gives one")


@pytest.fixture
def foreign():
    """Registers a task of five equal samples under the features of a domain, or others."""
    added = []

    def add(sample, features=None, splits=("train", "test")):
        given = seqio.TaskRegistry.get("wholeshop_retrieval").output_features
        data = tf.data.Dataset.from_tensors(sample).repeat(5)
        source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: data, splits)
        task = seqio.TaskRegistry.add("some_foreign", source, features or given, [])
        added.append(task.name)
        return task

    yield add
    for name in added:
        seqio.TaskRegistry.remove(name)


@pytest.mark.usefixtures("domains")
def test_a_task_without_the_split_is_passed_over(foreign):
    """As SeqIO does in a mixture."""
    foreign({"inputs": [3, 1], "targets": [3, 1]}, splits=["train"])
    seqio.MixtureRegistry.add("some_splits", ["some_foreign", "wholeshop_bpr"], 1.0)
    with pytest.raises(UserError, match="wholeshop_bpr has no sample in test"):
        inputs.check_samples(seqio.MixtureRegistry.get("some_splits"), LENGTHS, "test")


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("name", ["some_foreign", "some_mixed"])
def test_a_split_that_no_task_has_is_told(name, foreign):
    foreign({"inputs": [3, 1], "targets": [3, 1]}, splits=["val", "dev"])
    if name == "some_mixed":
        seqio.MixtureRegistry.add(name, ["some_foreign"], 1.0)
    with pytest.raises(UserError, match=f"^{name} has no split train, but dev, val$"):
        train_batches(name)


@pytest.mark.usefixtures("rated")
def test_a_task_of_ones_own_is_named_too():
    given = seqio.TaskRegistry.get("ratedshop_rating")
    steps = [*given.preprocessors, lambda data: data.filter(lambda example: False)]
    seqio.TaskRegistry.add("ratedshop_none", given.source, given.output_features, steps)
    with pytest.raises(UserError, match="ratedshop_none has no sample in train: none of its rec"):
        train_batches("ratedshop_none")


def fail(data):
    raise KeyError("a")


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (fail, r"test_presence.py, line \d+: KeyError: 'a'"),
        (lambda data: None, "AttributeError: "),
        (lambda data: data.map(fail), r"KeyError: [\s\S]*'a'"),
        (lambda data: data.map(lambda e: {"inputs": e["inputs"]}), "ValueError: .*: targets"),
    ],
)
def test_a_task_of_ones_own_that_fails_is_told_with_its_line(step, message):
    given = seqio.TaskRegistry.get("wholeshop_retrieval")
    features, steps = given.output_features, [*given.preprocessors, step]
    task = seqio.TaskRegistry.add("some_failing", given.source, features, steps)
    try:
        with pytest.raises(UserError, match=f"^some_failing: .*{message}"):
            inputs.check_samples(task, LENGTHS, "train")
    finally:
        seqio.TaskRegistry.remove(task.name)


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("names", [("question", "answer"), ("targets",)])
def test_a_task_without_inputs_and_targets_is_told(foreign, names):
    feature = seqio.TaskRegistry.get("wholeshop_retrieval").output_features["targets"]
    foreign({name: np.array([3, 1], np.int32) for name in names}, dict.fromkeys(names, feature))
    message = f"some_foreign has the features {', '.join(sorted(names))}, but .* inputs and targets"
    for asked in (inputs.vocabulary_size, train_batches):
        with pytest.raises(UserError, match=message):
            asked("some_foreign")


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize(
    ("feature", "token"), [("inputs", -3), ("targets", -3), ("inputs", 70_000), ("targets", 70_000)]
)
def test_a_token_that_the_vocabulary_has_not_is_told(foreign, feature, token):
    right = np.array([3, 1], np.int32)
    foreign({"inputs": right, "targets": right, feature: np.array([3, token], np.int32)})
    message = f"some_foreign has the token {token} in {feature}, but those of its vocabulary are 0"
    with pytest.raises(UserError, match=message):
        train_batches("some_foreign")


@pytest.mark.usefixtures("domains")
def test_given_tokens_of_a_task_that_goes_on_from_ours_are_no_fault():
    gin.bind_parameter("retrieval.retrieval.answer_prefix", 1)
    given = seqio.TaskRegistry.get("wholeshop_retrieval")
    steps = [*given.preprocessors, lambda data: data.filter(lambda example: True)]
    seqio.TaskRegistry.add("some_derived", given.source, given.output_features, steps)
    assert next(train_batches("some_derived"))["encoder_input_tokens"].any()


@pytest.mark.usefixtures("domains")
def test_a_source_whose_splits_cannot_be_told_is_the_tasks_fault():
    given = seqio.TaskRegistry.get("wholeshop_retrieval")
    source = seqio.TfdsDataSource("nothing_there:1.0.0", "/nowhere")
    seqio.TaskRegistry.add("some_missing", source, given.output_features, [])
    seqio.MixtureRegistry.add("some_of_missing", ["wholeshop_retrieval", "some_missing"], 1.0)
    with pytest.raises(UserError, match=r"^some_missing: "):
        train_batches("some_of_missing")


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, "a", lambda task: 1 / 0])
def test_a_rate_that_is_none_is_told(rate):
    mixture = seqio.Mixture("some_rates", [("wholeshop_retrieval", rate)])
    with pytest.raises(UserError, match=r"some_rates.* wholeshop_retrieval"):
        inputs.check_samples(mixture, LENGTHS, "train")


@pytest.mark.usefixtures("domains")
def test_what_is_not_drawn_from_needs_no_sample():
    rates = {"threeshop_mim": 0.0, "wholeshop_retrieval": 1.0}
    seqio.MixtureRegistry.add("some_undrawn", [*rates.items()])
    mixture = seqio.MixtureRegistry.get("some_undrawn")
    inputs.check_samples(mixture, LENGTHS, "train")
    samples = "recalign.samples"
    idle = {f"{samples}.mim.mim", f"{samples}.sequences.whole_sequences"}
    used = {f"{samples}.retrieval.retrieval", f"{samples}.sequences.next_item_positions"}
    assert inputs.idle(mixture) & (idle | used) == idle
    seqio.MixtureRegistry.add("some_zero", ["wholeshop_retrieval"], 0.0)
    with pytest.raises(UserError, match=r"some_zero .* mixing rate 0"):
        inputs.check_samples(seqio.MixtureRegistry.get("some_zero"), LENGTHS, "train")


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("option", [{"rates": {"retrieval": 0}}, {"left_out": ("retrieval",)}])
def test_what_is_not_drawn_from_need_not_fit_and_is_not_judged(option):
    short = {"inputs": 30, "targets": 8}  # its wording has 37
    with pytest.raises(UserError, match="wholeshop_retrieval: "):
        inputs.train_batches("wholeshop_recommendation", short, 4, 0)
    [(name, value)] = option.items()
    gin.bind_parameter(f"registry.mixing_rate.{name}", value)
    next(inputs.train_batches("wholeshop_recommendation", short, 4, 0))
    [found] = judged.examples("wholeshop_recommendation", short, "test")
    assert found.task == "wholeshop_ranking"


def shown(*arguments, data):
    result = CliRunner().invoke(recalign, ["tasks", *arguments, "--data_dir", str(data)])
    return result.exception or result.output


def test_tasks_tells_it_too(domains):
    for kind in OF_EVENTS:
        error = shown(f"threeshop_{kind}", data=domains)
        assert isinstance(error, UserError)
        assert f"threeshop_{kind} has no sample in train" in str(error)


def test_lengths_given_to_tasks_are_what_samples_are_measured_against(domains):
    override = "--gin.TASK_FEATURE_LENGTHS={'inputs': 40, 'targets': 8}"
    assert "limit 40" in shown("wholeshop_retrieval", override, data=domains)
    assert "limit 512" in shown("wholeshop_retrieval", data=domains)
    recipe = ["--gin_file=toyshop.gin", "--gin.MODEL_DIR=none"]
    assert "limit 256" in shown("wholeshop_retrieval", *recipe, data=domains)
    assert "limit 256" in shown("wholeshop_retrieval", recipe[0], data=domains)
    assert "limit 40" in shown("wholeshop_retrieval", *recipe, override, data=domains)


def test_tasks_of_a_domain_that_is_not_prepared(domains):
    error = shown("beauty_retrieval", data=domains)
    assert isinstance(error, UserError)
    assert "domain 'beauty' is not prepared" in str(error)


def test_a_domain_that_is_prepared_and_that_no_module_registers(domains, monkeypatch):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(domains))
    registry._forget("threeshop")
    try:
        message = r"'threeshop_mim'; domain 'threeshop' is prepared, .* recalign.tasks .* regist"
        with pytest.raises(UserError, match=message):
            inputs.mixture_or_task("threeshop_mim")
    finally:
        registry.register_domain("threeshop", str(domains))


@pytest.fixture
def unreadable(domains, monkeypatch):
    """A domain of T5's public vocabulary, which lies where nothing can be read."""
    monkeypatch.setattr(items, "T5_VOCABULARY", str(domains / "nowhere" / "spiece.model"))
    table = ["--interactions", str(domains / "events.csv")]
    return prepared("offlineshop", domains, "table", *table)


def test_a_vocabulary_that_cannot_be_read_is_told(unreadable, domains):
    message = r"the vocabulary of \w*offlineshop\w* cannot be read .*--vocab_size N"
    error = shown("offlineshop_mim", "--examples", "1", data=domains)
    assert isinstance(error, UserError)
    assert re.match(message, str(error))
    with pytest.raises(UserError, match=message):
        train_batches("offlineshop_aligned")
    with pytest.raises(UserError, match=message):
        inputs.provenance("offlineshop_aligned")
    with pytest.raises(UserError, match=message):
        items.item_texts("offlineshop", str(domains))
    assert "offlineshop_aligned" in shown(data=domains)  # a list needs no vocabulary


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize("number", [0, -1])
def test_no_examples_to_evaluate_are_not_all(number):
    with pytest.raises(UserError, match=f"EVAL_EXAMPLES is {number}, but must be at least 1"):
        judged.examples("wholeshop_retrieval", LENGTHS, "test", num_examples=number)


@pytest.mark.usefixtures("domains")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": {"nope": 1.0}}, "mixing_rate.rates names nope, but the kinds of task are ret"),
        ({"left_out": ("mim", "mlmm")}, "mixing_rate.left_out names mlmm"),
        ({"rates": {"mim": -1}}, r"mixing_rate.rates\['mim'\] is -1, but must be 0 or more"),
        ({"rates": {"mim": math.nan}}, r"mixing_rate.rates\['mim'\] is nan"),
    ],
)
def test_a_rate_of_no_task_is_refused(options, message):
    for name, value in options.items():
        gin.bind_parameter(f"registry.mixing_rate.{name}", value)
    with pytest.raises(UserError, match=message):
        train_batches("wholeshop_aligned")
    gin.clear_config()
    assert mixing_rate(seqio.TaskRegistry.get("wholeshop_mim")) == 1


@pytest.mark.usefixtures("rated")
@pytest.mark.parametrize("kind", [*OF_EVENTS, "rating"])
@pytest.mark.parametrize("number", [0, -3])
def test_no_history_is_not_the_whole_one(kind, number):
    gin.bind_parameter(f"{kind}.{kind}.max_history", number)
    with pytest.raises(UserError, match=f"{kind}.max_history is {number}, but must be at lea"):
        train_batches(f"ratedshop_{kind}")


@pytest.mark.usefixtures("rated")
@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("mim", "mim.mask_rate", -0.1),
        ("mim", "mim.mask_rate", 1.5),
        ("mlm", "mlm.noise_density", 0),
        ("mlm", "mlm.noise_density", 1.0),
        ("mlm", "mlm.mean_span", 0.5),
        ("retrieval", "verbaliser.Verbaliser.paraphrases", 0),
        ("retrieval", "items.item_texts.max_title_words", 0),
        ("retrieval", "items.item_texts.history_form", "name"),
        ("ranking", "ranking.candidate_form", "name"),
    ],
)
def test_options_out_of_range_are_named(kind, option, value):
    option = {"items": option.replace("items.", "samples.")}.get(option.partition(".")[0], option)
    gin.bind_parameter(option, value)
    with pytest.raises(UserError, match=rf"{option.split('.')[-1]} is {value!r}, but must be"):
        train_batches(f"ratedshop_{kind}")
