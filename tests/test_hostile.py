"""Hostile gin text is one clear error, and nothing of recalign's runs what it reads."""

import ast
import contextlib
import os
from pathlib import Path

import gin
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import recalign
from recalign.errors import UserError
from recalign.runs import configuration

EXAMPLES = int(os.environ.get("RECALIGN_FUZZ_EXAMPLES", 40))
NAMES = ["TRAIN_STEPS", "T5Config.emb_dim", "BATCH_SIZ", "a/b/Run.model_dir", "include", "import x"]
# Pieces of gin's grammar, so that text gets past its first characters.
WORDS = ("None", "%X", "%gin.REQUIRED", "include ", "import ", "singleton", "lambda", "1e999", "-1")
CALLS = ("@f()", "@gin.macro()", "__import__('os')", "'''", "\ud800")
PIECES = st.sampled_from([*"@%()[]{},:='\"\\\n\0#1 ", *WORDS, *CALLS])
TEXT = st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=8).map("".join))
OVERRIDES = st.one_of(TEXT, st.tuples(st.sampled_from(NAMES), TEXT).map("=".join))


@settings(max_examples=EXAMPLES, deadline=None)
@given(OVERRIDES)
@example("TRAIN_STEPS=" + "[" * 5000)
@example("TRAIN_STEPS=" + "9" * 5000)
@example("TRAIN_STEPS=@__import__('os').system('true')()")
def test_any_override_is_taken_or_refused(override):
    try:
        configuration.parse(["toyshop.gin"], ["MODEL_DIR=run", override])
        configuration.operative()
    except UserError:
        pass
    finally:
        gin.clear_config()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=40) | TEXT.map(lambda text: text.encode(errors="surrogatepass")))
def test_any_gin_file_is_taken_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("gin") / "recipe.gin"
    path.write_bytes(content)
    try:
        configuration.parse([str(path)])
    except UserError:
        pass
    finally:
        gin.clear_config()


@settings(max_examples=EXAMPLES, deadline=None)
@given(TEXT)
@example("a = 1\nnot a binding\n")
@example("b.c = [\n")
def test_any_text_holds_bindings_or_is_refused(text):
    with contextlib.suppress(UserError):
        assert all(isinstance(name, str) for name in configuration.bindings(text))


RUNS_WHAT_IT_READS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
SOURCES = sorted(
    path
    for folder in (Path(recalign.__file__).parent, Path(recalign.__file__).parents[1] / "tasks")
    for path in folder.rglob("*.py")
)


def forbidden(tree):
    """Where a module imports a pickle, calls eval or exec, or lets numpy unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        else:
            names = set()
        if names & RUNS_WHAT_IT_READS:
            yield node.lineno
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            plain = isinstance(node.func, ast.Name)
            allowed = [k for k in node.keywords if k.arg == "allow_pickle"]
            if (plain and name in ("eval", "exec")) or name in ("read_pickle", "to_pickle"):
                yield node.lineno
            if any(getattr(k.value, "value", True) is not False for k in allowed):
                yield node.lineno


def test_what_is_forbidden_is_found():
    bad = ("import pickle", "from dill import load", "eval('1')", "np.load(p, allow_pickle=x)")
    for line in bad:
        assert list(forbidden(ast.parse(line))) == [1]
    assert not list(forbidden(ast.parse("ast.literal_eval(x); np.load(p, allow_pickle=False)")))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_pickle_and_no_eval(path):
    found = list(forbidden(ast.parse(path.read_text())))
    # It unpickles what it has sealed itself: tests/domains/test_scratch.py.
    assert len(found) == (path.parts[-2:] == ("domains", "scratch.py"))
