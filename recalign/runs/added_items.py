"""Items that a run has never seen, and recommends all the same.

They lie in the run's folder, as a copy of its domain with the new items; nothing is trained, and
the domain itself, the checkpoints and the evaluations stay what they were:

    added_items/NAME/             the domain, prepared
    added_items/provenance.json   what the run's checkpoints belong to
"""

import dataclasses
import json
import shutil
import uuid

import pandas as pd

from recalign.domains import Domain, additions, storage
from recalign.domains.records import VERSION
from recalign.engine.training.checkpoints import read_provenance
from recalign.errors import UserError
from recalign.files import in_bucket, locate, resolve
from recalign.runs.directory import RunDirectory
from recalign.runs.run import Run

FOLDER, PROVENANCE = "added_items", "provenance.json"


def with_added_items(run: Run) -> Run:
    """The run over a catalogue that has the items that were added; itself if none were.

    Raises:
      UserError: not all is there that was written with them.
    """
    folder = locate(run.model_dir) / FOLDER
    if not folder.exists():
        return run
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        names = storage.list_prepared(folder)
        lost = not names or not all((folder / name / VERSION).is_dir() for name in names)
        if lost or not isinstance(provenance, dict):
            raise ValueError("a part of it is lost")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is damaged: {error}; take its items back with `recalign add-items "
            f"--model_dir {run.model_dir} --undo`, and add them again"
        ) from error
    return dataclasses.replace(run, data=run.data.of_domains_in(str(folder), provenance))


def add(run: Run, items: pd.DataFrame, name: str | None = None) -> Domain:
    """Adds items to the catalogue of a run, beside those that were added before.

    Args:
      run: as it was trained.
      items: as for `additions.add_items`.
      name: the domain; None where the run has only one.

    Returns:
      The domain with the new items.

    Raises:
      UserError: the run has no checkpoint, or its domain is another by now; it is not clear which
        domain is meant; or items cannot be added, see `additions.add_items`.
    """
    _check_local(run.model_dir)
    if not hasattr(run.data, "of_domains_in"):
        raise UserError(
            f"{run.model_dir} was trained from a folder of tokens, which holds no text plane to "
            "write new items with: add them to a run that was trained from the domain itself"
        )
    _check_checkpoint(run)
    provenance = run.data.provenance()
    found = {e.domain.name: e.domain for e in with_added_items(run).data.examples("validation", 1)}
    if name is None and len(found) > 1:
        raise UserError(
            f"{run.model_dir} has several domains: choose with --domain from {[*found]}"
        )
    if name is not None and name not in found:
        raise UserError(f"{run.model_dir} has no domain {name!r}; it has {', '.join(found)}")
    domain = additions.add_items(found[name or next(iter(found))], items)
    folder = locate(run.model_dir) / FOLDER
    with storage.replacing(folder, overwrite=True) as draft:
        for other in folder.glob("*/") if folder.exists() else ():
            if other.name != domain.name:
                shutil.copytree(other, draft / other.name)
        additions.write(domain, draft / domain.name)
        (draft / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return storage.load(domain.name, folder)


def remove(model_dir: str) -> None:
    """Takes back all items that were added to a run.

    Raises:
      UserError: there are none.
    """
    _check_local(model_dir)
    folder = locate(model_dir) / FOLDER
    if not folder.exists():
        raise UserError(f"no items were added to {model_dir}")
    try:  # at once, or not at all
        gone = folder.rename(folder.with_name(f".{FOLDER}.old-{uuid.uuid4().hex[:8]}"))
    except OSError as error:
        raise UserError(f"{folder} cannot be taken away: {error.strerror}") from error
    shutil.rmtree(gone, ignore_errors=True)


def _check_local(model_dir: str) -> None:
    if in_bucket(model_dir):
        raise UserError(
            f"{model_dir}: items are added on local disk alone: copy the run here (gcloud storage "
            f"rsync --recursive {model_dir} …) and add them to the copy"
        )


def _check_checkpoint(run: Run) -> None:
    """Raises a UserError unless the run has a checkpoint that is of its domains as they are."""
    steps = RunDirectory(run.model_dir).checkpoints()
    if not steps:
        raise UserError(f"{run.model_dir} holds no checkpoint: train it first")
    made_from = read_provenance(resolve(run.model_dir) / "checkpoints" / str(steps[-1]))
    for what, now in run.data.provenance().items():
        if made_from.get(what, now) != now:
            raise UserError(
                f"{what} is {now}, but {run.model_dir} was trained on {made_from[what]}: prepare "
                "the domain as it was"
            )
