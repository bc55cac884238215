"""Every mistake in a configuration is an error that names it."""

import re

import flax.linen
import gin
import pytest

from recalign.engine.network.config import ACTIVATIONS, T5Config
from recalign.engine.training import loop, losses, schedules
from recalign.errors import UserError
from recalign.runs import configuration, macros, run
from recalign.runs.macros import NEEDS

RECIPE = """
from __gin__ import dynamic_registration
from recalign.engine.network import transformer

WIDTH = %gin.REQUIRED
RATE = 0.1
transformer.T5Config:
  vocab_size = 100
  emb_dim = %WIDTH
  dropout_rate = %RATE
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.gin"
    path.write_text(RECIPE)
    return str(path)


def test_files_and_overrides_configure_what_they_name(recipe):
    configuration.parse([recipe], ["WIDTH=8", "transformer.T5Config.head_dim=4"])
    config = gin.get_configurable(T5Config)()
    assert (config.emb_dim, config.dropout_rate, config.head_dim) == (8, 0.1, 4)
    configuration.check_all_used()


def test_what_is_neither_literal_nor_reference_is_a_string(recipe):
    configuration.parse([recipe], ["RATE=%WIDTH", "WIDTH=8", "transformer.T5Config.dtype=bfloat16"])
    config = gin.get_configurable(T5Config)()
    assert (config.dropout_rate, config.dtype) == (8, "bfloat16")


@pytest.mark.parametrize("text", ["runs/50%off", "full/hr@10", "o'brien", 'a "b" c', "f(@x)"])
def test_a_text_needs_no_quotes_whatever_stands_in_it(recipe, text):
    configuration.parse([recipe], ["WIDTH=8", f"transformer.T5Config.dtype={text}"])
    assert gin.query_parameter("T5Config.dtype") == text


def test_the_operative_configuration_gives_the_same_again(recipe, tmp_path):
    configuration.parse([recipe], ["WIDTH=8"])
    config = gin.get_configurable(T5Config)()
    (tmp_path / "config.gin").write_text(configuration.operative())
    configuration.parse([str(tmp_path / "config.gin")])
    assert gin.get_configurable(T5Config)() == config


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ([], "`WIDTH` must be set"),
        (["WIDTH=8", "RAT=0.2"], "nothing uses `RAT` .did you mean RATE"),
        (["WIDTH=8", "transformer.T5Config.emb_dims=3"], "emb_dims"),
        (["WIDTH=8", "network.T5Confg.emb_dim=3"], "T5Confg"),
        (["WIDTH=%NOWHERE"], "NOWHERE"),
        (["WIDTH"], "--gin.NAME=VALUE"),
    ],
)
def test_a_wrong_name_is_named(recipe, bindings, message):
    with pytest.raises(UserError, match=message):
        configuration.parse([recipe], bindings)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.gin"):
        configuration.parse(["nowhere.gin"])


def test_a_binding_that_nothing_makes_use_of_is_named(recipe, tmp_path):
    extra = tmp_path / "extra.gin"
    extra.write_text(
        "from __gin__ import dynamic_registration\n"
        "from recalign.engine import partitioning\n"
        "partitioning.Partitioner.num_partitions = 2\n"
    )
    configuration.parse([recipe, str(extra)], ["WIDTH=8"])
    gin.get_configurable(T5Config)()
    with pytest.raises(UserError, match=r"uses `partitioning.Partitioner.num_partitions`"):
        configuration.check_all_used()


def test_a_folder_of_that_name_is_no_package_that_hides_a_recipe(tmp_path, monkeypatch):
    """`runs/`, where runs are written, and `models/` are namespace packages to Python."""
    for folder in ("runs", "models", "ablations"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    configuration.parse(["toyshop.gin", "ablations/ids.gin"], ["MODEL_DIR=runs/shop"])
    assert gin.query_parameter("%TRAIN_STEPS") == 1500


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes gin files by name where the process is."""
    monkeypatch.chdir(tmp_path)

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.gin"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


IMPORTS = (
    "from __gin__ import dynamic_registration\nfrom recalign.engine.network import transformer\n"
)


def test_a_file_is_included_where_it_says_so(files):
    files(
        whole=f"{IMPORTS}A = 1\nB = 1\ninclude 'part.gin'\nB = 3\n"
        "transformer.T5Config.emb_dim = %A\ntransformer.T5Config.head_dim = %B\n",
        part="A = 2\nB = 2\n",
    )
    configuration.parse(["whole.gin"])
    assert [gin.query_parameter(name) for name in ("%A", "%B")] == [2, 3]


def test_what_is_included_is_looked_for_here_then_in_the_search_paths(files, tmp_path):
    files(whole="include 'part.gin'\n", there__part=f"{IMPORTS}transformer.T5Config.emb_dim = 5\n")
    with pytest.raises(UserError, match=r"no file part\.gin, which .*whole\.gin includes"):
        configuration.parse(["whole.gin"])
    configuration.parse(["whole.gin"], [], [str(tmp_path / "there")])
    assert gin.query_parameter("T5Config.emb_dim") == 5
    with pytest.raises(UserError, match=r"no file part\.gin"):  # nothing is left of the last time
        configuration.parse(["whole.gin"])


def test_what_lies_beside_a_file_may_be_included_from_anywhere(files, tmp_path, monkeypatch):
    files(
        there__whole="include 'deep/part.gin'\ninclude 'part.gin'\n",
        there__part=f"{IMPORTS}transformer.T5Config.emb_dim = 5\n",
    )
    (tmp_path / "there/deep").mkdir()
    (tmp_path / "there/deep/part.gin").write_text("include '../part.gin'\n")
    configuration.parse(["there/whole.gin"])
    assert gin.query_parameter("T5Config.emb_dim") == 5
    files(part=f"{IMPORTS}transformer.T5Config.emb_dim = 6\n")  # where the process is goes first
    configuration.parse(["there/whole.gin"])
    assert gin.query_parameter("T5Config.emb_dim") == 6


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff# a word\r\n"])
def test_what_an_editor_writes_before_a_text_is_no_part_of_it(files, mark):
    files(whole=f"{mark}{IMPORTS}transformer.T5Config.emb_dim = 5\n")
    configuration.parse(["whole.gin"])
    assert gin.query_parameter("T5Config.emb_dim") == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = 1\n".encode("utf-16"), r"whole\.gin: no UTF-8 text"),
        (b"a = '\xe9'\n", r"whole\.gin: no UTF-8 text"),
        (b"include 'toyshop.gin'\na = (5\n", r"EOF in multi-line statement \(.*whole\.gin, line 3"),
        (b"include part.gin\n", r"whole\.gin, line 1"),
        (b"A = 1\0\n", r"whole\.gin, line 1"),
    ],
)
def test_a_file_that_is_no_gin_is_named(files, content, message, tmp_path):
    files()
    (tmp_path / "whole.gin").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        configuration.parse(["whole.gin"])
    assert " object at 0x" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["A = %A\n", "A = %B\nB = %A\n", "A = %B\nB = %C\nC = %B\n", "A = [%A]\n"]
)
def test_macros_that_refer_to_each_other_are_named(files, text):
    files(whole=f"{IMPORTS}{text}transformer.T5Config.emb_dim = %A\n")
    with pytest.raises(UserError, match=r"configuration: `[ABC]` refers to itself"):
        configuration.parse(["whole.gin"])
    with pytest.raises(UserError, match=r"`TRAIN_STEPS` refers to itself"):
        configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", "TRAIN_STEPS=%TRAIN_STEPS"])


def test_a_macro_that_another_binding_leaves_unused_is_no_misspelling():
    with pytest.raises(UserError, match="nothing uses `MODEL_DIR`") as error:
        configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", "Run.model_dir=y"])
    assert "did you mean" not in str(error.value)


def test_a_file_that_includes_itself_is_named(files):
    files(whole="include 'part.gin'\n", part="include 'whole.gin'\n")
    with pytest.raises(UserError, match=r"whole\.gin includes itself"):
        configuration.parse(["whole.gin"])


def test_a_mistake_below_an_include_has_its_line(files):
    text = f"{IMPORTS}A = 1\ninclude 'part.gin'\n# a word\ntransformer.T5Confg.emb_dim = %A\n"
    files(whole=text, part="B = 2\n")
    with pytest.raises(UserError, match=r"whole\.gin\", line 6"):
        configuration.parse(["whole.gin"])


def test_a_recipe_knows_its_folder(files, tmp_path):
    recipe = "D = %RECIPE_DIR\ntransformer.T5Config.dtype = %D\n"
    files(there__recipe=f"{IMPORTS}{recipe}")
    configuration.parse(["there/recipe.gin"])
    assert gin.query_parameter("%D") == str(tmp_path / "there")


WRONG = {
    "whole numbers": (
        *("TRAIN_STEPS", "EVAL_PERIOD", "CHECKPOINT_PERIOD", "RANDOM_SEED", "BATCH_SIZE"),
        *("NUM_BEAMS", "EVAL_EXAMPLES", "PATIENCE", "VOCAB_SIZE", "WARMUP_STEPS"),
    ),
    "from 1": (
        "BATCH_SIZE",
        "INPUT_STREAMS",
        "NUM_BEAMS",
        "EVAL_EXAMPLES",
        "PATIENCE",
        "VOCAB_SIZE",
    ),
    "numbers": ("DROPOUT_RATE", "LABEL_SMOOTHING", "LEARNING_RATE", "Z_LOSS"),
    "flags": ("PACK", "SCAN_LAYERS", "USE_CACHED_TASKS"),
    "texts": ("MIXTURE_OR_TASK_NAME", "MODEL_DIR", "LEARNING_RATE_FACTORS", "BEST_METRIC"),
    "choices": ("ON_NONFINITE", "REMAT_POLICY", "ACTIVATIONS_DTYPE"),
}
VALUES = {
    "whole numbers": ("1e1", "-1", "2.5", "many", "True", "[3]"),
    "from 1": ("0",),
    "numbers": ("-0.1", "much", "True", "{}"),
    "flags": ("1", "yes", "0.0"),
    "texts": ("3", "()", "''"),
    "choices": ("sometimes", "1", "None"),
}
MISTAKES = [
    *((name, value) for kind, names in WRONG.items() for name in names for value in VALUES[kind]),
    ("LOSS_NORMALIZING_FACTOR", "0"),
    ("LOSS_NORMALIZING_FACTOR", "PER_TOKEN"),
    ("DROPOUT_RATE", "1.0"),
    ("RANDOM_SEED", "4294967296"),
    ("CACHE_DIRS", "/tmp"),
    ("EVAL_PERIODS", "{'ranking': 0.5}"),
    ("TASK_FEATURE_LENGTHS", "{'inputs': 64}"),
    ("TASK_FEATURE_LENGTHS", "{'inputs': 64, 'target': 8}"),
    ("TASK_FEATURE_LENGTHS", "{'inputs': 64, 'targets': 0}"),
    ("TASK_FEATURE_LENGTHS", "64"),
]


@pytest.mark.parametrize(("name", "value"), MISTAKES)
def test_a_macro_of_a_wrong_value_is_one_message(name, value):
    others = [] if name == "MODEL_DIR" else ["MODEL_DIR=x"]
    with pytest.raises(UserError) as error:
        configuration.parse(["toyshop.gin"], [*others, f"{name}={value}"])
    assert str(error.value).startswith(f"{name} is ")
    assert "\n" not in str(error.value)


def test_every_macro_of_the_recipes_is_checked():
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x"])
    made = {"MODEL"}
    assert {name for name in configuration.current() if "." not in name} - made <= set(NEEDS)


def test_choices_are_those_of_what_they_are_for():
    assert macros.NORMALIZERS == losses.NORMALIZERS
    assert macros.ON_NONFINITE == loop.ON_NONFINITE


def test_a_macro_is_judged_by_what_it_refers_to():
    with pytest.raises(UserError, match="BATCH_SIZE is 0, but"):
        configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", "BATCH_SIZE=%SIZE", "SIZE=0"])


@pytest.mark.parametrize(
    ("name", "value", "needs"),
    [
        ("T5Config.emb_dim", "many", "a whole number"),
        ("T5Config.num_heads", "2.5", "a whole number"),
        ("T5Config.head_dim", "True", "a whole number"),
        ("T5Config.mlp_dim", "None", "a whole number"),
        ("T5Config.logits_via_embedding", "1", "True or False"),
        ("retrieval.max_history", "1.5", "a whole number"),
        ("retrieval.max_history", "all", "a whole number"),
        ("Trainer.num_microbatches", "'2'", "a whole number"),
        ("Partitioner.num_partitions", "2.0", "a whole number"),
        ("Run.checkpoints_to_keep", "2.5", "a whole number"),
        ("T5Config.mlp_activations", "gelu", "a list of texts"),
        ("T5Config.mlp_activations", "[1]", "a list of texts"),
        ("T5Config.mlp_activations", "None", "a list of texts"),
        ("retrieval.templates", "{history}", "a list of texts"),
        ("mixing_rate.left_out", "mim", "a list of texts"),
        ("mixing_rate.rates", "1.0", "numbers by name"),
        ("mixing_rate.rates", "{'mim': 'a'}", "numbers by name"),
        ("mixing_rate.rates", "{1: 1}", "numbers by name"),
        ("Run.trainer", "None", "@Trainer()"),
        ("Run.trainer", "@Trainer", "@Trainer()"),
        ("Run.trainer", "@Run()", "@Trainer()"),
        ("Run.inference", "@Trainer()", "@Inference()"),
        ("Run.data", "@Trainer()", "made by a class of Data"),
        ("Run.data", "None", "made by a class of Data"),
        ("Trainer.partitioner", "4", "@Partitioner()"),
        ("Transformer.config", "base", "@T5Config()"),
    ],
)
def test_a_parameter_of_another_type_is_one_message(name, value, needs):
    with pytest.raises(UserError, match=rf"^{name} is .*, but must be {re.escape(needs)}$"):
        configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", f"{name}={value}"])


@pytest.mark.parametrize(
    "binding", ["TASK_FEATURE_LENGTHS={'inputs': 256", "MODEL_DIR='open", "TRAIN_STEPS=1e400"]
)
def test_an_override_that_cannot_be_read_is_named(binding):
    with pytest.raises(UserError, match=f"^--gin.{re.escape(binding)}: "):
        configuration.parse(["toyshop.gin"], ["BATCH_SIZE=4", binding])


@pytest.mark.parametrize("name", ["vocab_size", "emb_dim", "num_heads", "num_encoder_layers"])
def test_a_network_has_a_size(name):
    for size in (0, -1):
        with pytest.raises(UserError, match=f"T5Config.{name} is {size}, but must be at least 1"):
            T5Config(**({"vocab_size": 100} | {name: size}))


@pytest.mark.parametrize(
    ("name", "value", "needs"),
    [
        ("Inference.batch_size", "0", "at least 1"),
        ("Inference.length_multiple", "0", "at least 1"),
        ("Inference.chunk", "-1", "at least 1"),
        ("Inference.scoring_batch_size", "0", "at least 1"),
        ("Trainer.num_microbatches", "0", "at least 1"),
        ("Partitioner.num_partitions", "0", "at least 1"),
        ("Partitioner.num_partitions", "-1", "at least 1"),
        ("Run.checkpoints_to_keep", "0", "at least 1, or None for all"),
        ("T5Config.mlp_activations", "('gelu', 'nope')", "a list of some of 'linear', 'relu', "),
        ("T5Config.mlp_activations", "()", "a list of some of 'linear', 'relu', "),
        ("Partitioner.rules", "5", "one of 'replicated', 'tensor_parallel', "),
        ("Partitioner.rules", "[5]", "one of 'replicated', 'tensor_parallel', "),
        ("Partitioner.rules", "nope", "one of 'replicated', 'tensor_parallel', "),
    ],
)
def test_a_size_or_choice_of_what_is_made_is_one_message(name, value, needs):
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", f"{name}={value}"])
    with pytest.raises(UserError, match=rf"^{name} is .*, but must be {re.escape(needs)}"):
        run.make()


OWN_RATES = """
from recalign.engine.training.schedules import FACTORS
FACTORS["halved"] = lambda step, base, warmup: 0.5
FACTORS["wrong"] = lambda step, base, warmup: {}["a"]

def fail():
    raise RuntimeError("on purpose")

def make_text():
    return "abc"

def make_function():
    return lambda step: lambda again: again

def make_texts():
    return lambda step: "abc"
"""


@pytest.fixture(scope="module")
def own_module(tmp_path_factory):
    """A module of one's own, `own_rates`; gin keeps what is imported."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_rates.py").write_text(OWN_RATES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(schedules, "FACTORS", schedules.FACTORS.copy())
        yield


@pytest.fixture
def own_rates(own_module, tmp_path):
    """A recipe that imports it."""
    recipe = f"{IMPORTS}import own_rates\nfrom recalign.engine.training import adafactor\n"
    (tmp_path / "own.gin").write_text(f"{recipe}include 'toyshop.gin'\n")
    return tmp_path / "own.gin"


def test_a_factor_of_ones_own_is_a_learning_rate(own_rates):
    factors = "LEARNING_RATE_FACTORS=constant * halved"
    configuration.parse([str(own_rates)], ["MODEL_DIR=x", "LEARNING_RATE=3.0", factors])
    assert run.make().trainer.model.optimizer_def.learning_rate(7) == 1.5


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("LEARNING_RATE_FACTORS='wrong'", r"configuration: .*own_rates.py, line 4: KeyError: 'a'"),
        ("RATE=@own_rates.fail()", "configuration: .*line 7: RuntimeError: on purpose"),
        ("RATE=@own_rates.make_text()", ".* is 'abc', but must be a number"),
        ("RATE=@own_rates.make_function()", ".* is what makes a function of a"),
        ("RATE=@own_rates.make_texts()", ".* is what makes a str of a step"),
        ("RATE=@own_rates.make_texts", r".* cannot be asked of a step: make_texts\(\) takes 0"),
        ("RATE=None", ".* is None, but must be a number, or a function"),
    ],
)
def test_a_learning_rate_of_ones_own_that_is_none_is_one_message(own_rates, binding, message):
    rate = "adafactor.adafactor.learning_rate = %RATE" if binding.startswith("RATE") else ""
    own_rates.write_text(f"{own_rates.read_text()}{binding}\n{rate}\n")
    configuration.parse([str(own_rates)], ["MODEL_DIR=x"])
    with pytest.raises(UserError, match=f"^{message}"):
        run.make()


def test_what_fails_in_recalign_is_no_fault_of_a_recipe(monkeypatch):
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x"])
    broken = eval("lambda self: [].pop()")  # of no file
    monkeypatch.setattr(run.Run, "__post_init__", broken)
    with pytest.raises(IndexError):
        run.make()


def test_a_folder_of_recipes_that_is_not_there_is_told(tmp_path):
    message = rf"no file mine.gin; .*--gin_search_paths=DIR,DIR \({tmp_path}/none is none\)"
    with pytest.raises(UserError, match=message):
        configuration.parse(["mine.gin"], [], [str(tmp_path), f"{tmp_path}/none"])


@pytest.mark.parametrize("step", ["last", "-1", "1.5", "2,3"])
def test_a_step_is_known_to_be_none_before_anything_is_read(step):
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", f"Run.step='{step}'"])
    with pytest.raises(UserError, match=f"--step {step}: neither a number, nor `best`"):
        run.make()


def test_activations_are_functions_of_flax():
    assert all(callable(getattr(flax.linen, name)) for name in ACTIVATIONS if name != "linear")


def test_two_configurations_differ_in_what_they_do():
    """A parameter that the other lacks is none that differs, as long as it is at its default."""
    text = f"{IMPORTS}A = 8\ntransformer.T5Config.emb_dim = %A\n"
    configuration.parse([], [])
    more = f"{text}transformer.T5Config.head_dim = {T5Config.head_dim}\n"
    assert configuration.differences(text, more) == []
    assert configuration.differences(more, text) == []
    other = f"{text}transformer.T5Config.head_dim = {T5Config.head_dim + 1}\n"
    name = "recalign.engine.network.transformer.T5Config.head_dim"
    assert configuration.differences(text, other) == [f"+ {name} = {T5Config.head_dim + 1}"]
    assert configuration.differences(text, text.replace("8", "9")) == ["- A = 8", "+ A = 9"]
    assert configuration.differences(text, text.replace("8", "9"), ["A"]) == []
    renamed = text.replace("transformer\n", "transformer as network\n").replace(
        "transformer.T5", "network.T5"
    )
    assert configuration.differences(text, renamed) == []


def test_every_recipe_that_comes_with_recalign_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=run"])
