"""What every test may ask for."""

import contextlib
import functools
import gc
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from recalign.bindings import Bindings
from recalign.domains import additions

# Tests compile the same small programs again and again; subprocesses share the cache too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="recalign-xla-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# Programs as small as these take far longer to compile than to run: the least is done to make them
# fast, which takes 4 s of the processor where all takes 10. Flags that the caller sets come later
# and win.
_QUICKLY_COMPILED = (
    *("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"),
    *("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"),
)
_given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys((*_QUICKLY_COMPILED, *_given)))
# As importing recalign before all else does.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# The domains that the user has prepared are none of the tests' business.
_DATA_DIR = os.environ["RECALIGN_DATA_DIR"] = tempfile.mkdtemp(prefix="recalign-data-")
# How long one example takes says more of what else the machine does than of our code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Rooms that take long, the longest first: what is short comes last and fills up either process.
_DEAR = ("survival", "runs", "launch", "tokens", "serving", "samples", "engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by rooms: files, which share trainings and domains, go to processes in this order."""

    def place(item: pytest.Item) -> int:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        return _DEAR.index(room) if room in _DEAR else len(_DEAR)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _few_samples_to_shuffle() -> None:
    """SeqIO writes 1,000 samples of every task before it gives the first one, to draw from them.

    That is a good part of a training of a few steps, and what is drawn from fewer is as random.
    """
    if seqio := sys.modules.get("seqio"):
        few = functools.partialmethod(seqio.Task.get_dataset, shuffle_buffer_size=50)
        seqio.Task.get_dataset = few


@pytest.fixture(scope="session", autouse=True)
def _texts_tell_their_encoding() -> Iterator[None]:
    """What recalign reads and writes as text hangs on nobody's locale, which `Path` would ask."""
    plain = io.text_encoding

    def check(encoding, stacklevel=2):
        caller = sys._getframe(2).f_globals.get("__name__", "")
        assert encoding or not caller.startswith("recalign."), f"{caller}: in which encoding?"
        return plain(encoding, stacklevel + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "text_encoding", check)
        yield


@pytest.fixture(autouse=True)
def _no_bindings() -> None:
    """What another test bound, or a run that it made, configures nothing here: gin is one."""
    Bindings.begin()


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no collection of garbage need walk through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and golden values, or a skip that says why."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("RECALIGN_SHARED", default))
    if not (path / "golden").is_dir():
        pytest.skip(f"no real data or golden values at {path} (set RECALIGN_SHARED)")
    return path


@pytest.fixture(scope="session")
def _bucket_server():
    """One for the whole process: TensorStore asks once where it is."""
    from tests.buckets import serving

    with serving() as found:
        yield found


@pytest.fixture
def bucket(_bucket_server):
    """An empty bucket gs://bucket, see `tests.buckets`."""
    _bucket_server.empty()
    yield _bucket_server
    _bucket_server.empty()


@pytest.fixture(scope="session")
def compilations():
    """Gives, while a block runs, a list that grows with every program that XLA compiles."""
    return _compilations


@contextlib.contextmanager
def _compilations() -> Iterator[list[float]]:
    import jax

    from recalign.engine import partitioning

    found = []
    partitioning.forget_compiled()  # what other tests have compiled counts too

    def on_event(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(on_event)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(on_event)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, where one is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", "--window-size=1280,800"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module", autouse=True)
def _own_data_dir():
    """What one module makes of the environment, or prepares, does not reach the next.

    The toy shop alone is left, as it was prepared: every module's is the same, and each would
    prepare it again. What runs keep beside it (indices, baselines) is not.
    """
    os.environ["RECALIGN_DATA_DIR"] = _DATA_DIR
    yield
    os.environ["RECALIGN_DATA_DIR"] = _DATA_DIR
    for path in Path(_DATA_DIR).iterdir():
        if path.name != "toyshop":
            shutil.rmtree(path)
            continue
        for kept in (kept for pattern in additions.KEPT_BY_RUNS for kept in path.glob(pattern)):
            shutil.rmtree(kept)
