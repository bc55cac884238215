"""Folders of runs, written by hand in a moment: what looks at runs needs no training."""

import json
from pathlib import Path

from recalign.engine.weights.manifest import write_manifest
from recalign.runs import result
from recalign.runs.directory import RunDirectory

CONFIG = """\
from __gin__ import dynamic_registration
from recalign.runs import run
BATCH_SIZE = 4
BEST_METRIC = 'full/hr@10'
INITIAL_CHECKPOINT_PATH = None
MIXTURE_OR_TASK_NAME = 'shop_aligned'
RANDOM_SEED = 3
TRAIN_STEPS = 40
run.Run.model_dir = 'somewhere'
"""
PROVENANCE = {"vocabulary": "sha256 aa", "domain shop": "content sha256 bb"}


def write_run(path: Path, ended: bool = True, hits: float = 0.3) -> RunDirectory:
    """A run of 40 steps that is best at step 20; one that has not ended was killed there."""
    path.mkdir(parents=True)
    directory = RunDirectory(path)
    directory.write_config(CONFIG)
    last = 40 if ended else 20
    for step in range(10, last + 1, 10):
        found = hits if step == 20 else hits - 0.1
        directory.record(step, "validation", _metrics("validation", found))
        directory.record_seconds(step, step / 2)
        write_checkpoint(path / "checkpoints" / str(step), bytes([step]) * 1000)
    if ended:
        validation = directory.metrics_of(20, "validation")
        directory.record(20, "test", _metrics("test", hits - 0.02))
        result.Result(
            version="0.1.0",
            commit="c0ffee",
            configuration={},
            seed=3,
            seconds=20.0,
            last_step=40,
            step=20,
            chosen_by="full/hr@10",
            validation=validation,
            test=directory.metrics_of(20, "test"),
        ).write(path)
    return directory


def _metrics(split: str, hits: float) -> dict[str, float]:
    return {
        f"shop_retrieval/{split}/full/hr@10": hits,
        f"shop_retrieval/{split}/full/ndcg@10": hits / 2,
        f"shop_retrieval/{split}/full_unseen/hr@10": hits + 0.05,
        f"shop_ranking/{split}/cand100/hr@10": 2 * hits,
        f"shop_rating/{split}/rating/rmse": 1 - hits,
    }


def write_checkpoint(path: Path, content: bytes) -> None:
    """A checkpoint of one file, with provenance and manifest."""
    (path / "state").mkdir(parents=True)
    (path / "state" / "array").write_bytes(content)
    (path / "provenance").mkdir()
    (path / "provenance" / "metadata").write_text(json.dumps(PROVENANCE))
    write_manifest(path)


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what it holds."""
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
