"""A run: one configuration, trained, evaluated and asked for predictions."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np

from recalign.engine import processes
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from recalign.engine.search.saved_trie import fingerprint
from recalign.engine.search.trie import as_matrix
from recalign.engine.training.batch_statistics import row_text
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.dry_run import measure, measure_search
from recalign.engine.training.loop import Hooks, train
from recalign.engine.training.model import TrainState
from recalign.engine.training.trainer import Trainer
from recalign.engine.weights.conversion import load_params
from recalign.errors import UserError
from recalign.evaluation import metrics, report
from recalign.evaluation.examples import Examples, RatingExamples, RetrievalExamples
from recalign.evaluation.judges import Judge, Rows, judge
from recalign.files import replacing
from recalign.runs import configuration
from recalign.runs.directory import CONFIG, RunDirectory
from recalign.serving.recommender import Recommender

log = logging.getLogger(__name__)

Tables = dict[str, Rows]
"""The rows of the report for each task: the model, then the baselines."""

HEADLINE = ("full/hr@10", "full_unseen/hr@10", "cand100/hr@10", "rating/rmse", "rating/mae")


@gin.configurable
@dataclasses.dataclass
class Run:
    """What a recipe describes; gin/runs/train.gin binds every field.

    Attributes:
      model_dir: the folder of the run.
      trainer: the model, its layout and its seed.
      train_input: makes the endless batches to train on.
      batch_shapes: tells their shapes.
      vocabulary_size: tells how many token ids those batches may hold.
      examples: given a split, gives the examples of every task to evaluate.
      inference: how the model is asked.
      total_steps: the step to stop at.
      eval_period: steps between evaluations on validation; 0 means only at the end.
      eval_examples: so many examples of validation are enough; None takes all. Test takes all.
      checkpoint_period: steps between checkpoints.
      checkpoints_to_keep: only so many newest ones stay, and the best one.
      best_metric: tells which one is best on validation, see `RunDirectory.best_step`.
      provenance: tells what the parameters belong to, such as the vocabulary, by fingerprints.
      decode: turns token ids into text, for messages.
      nonfinite: what to do about a loss that is not finite, see `train`.
      initial_checkpoint_path: a checkpoint of T5X, Hugging Face or Orbax whose parameters a new
        run starts from; None starts from scratch.
      step: the checkpoint that is evaluated or asked: "newest", "best" or its number. Training goes
        on from the newest in any case.
    """

    model_dir: str
    trainer: Trainer
    train_input: Callable[[], Iterator[Mapping[str, np.ndarray]]]
    batch_shapes: Callable[[], Mapping[str, Any]]
    vocabulary_size: Callable[[], int]
    examples: Callable[..., list[Examples]]
    inference: Inference
    total_steps: int
    eval_period: int = 1000
    eval_examples: int | None = None
    checkpoint_period: int = 1000
    checkpoints_to_keep: int | None = 2
    best_metric: str | None = None
    initial_checkpoint_path: str | None = None
    provenance: Callable[[], Mapping[str, str]] = dict
    decode: Callable[[Sequence[int]], str] = str
    nonfinite: str = "stop"
    step: str = "newest"

    def __post_init__(self):
        if "://" in self.model_dir:
            raise UserError(
                f"MODEL_DIR is {self.model_dir}, but must be a local folder; copy it to a bucket "
                "afterwards"
            )
        self._models: dict[str, CatalogueModel] = {}

    def train(self, accept_changes: bool = False) -> Tables:
        """Trains, evaluating on validation, and at the end evaluates on test.

        Args:
          accept_changes: go on with a configuration that is not the one the run began with.

        Returns:
          The report on test.

        Raises:
          UserError: the vocabulary does not fit the model, a feature does not fit its task, or
            something is configured that nothing uses; another process trains in the folder, or
            the run in it began with another configuration.
        """
        with self._directory.locked() if processes.is_first() else contextlib.nullcontext():
            return self._train(accept_changes)

    def _train(self, accept_changes: bool) -> Rows:
        self._check_vocabulary()
        train_input = self.train_input()
        validation = self.examples(split="validation", num_examples=self.eval_examples)
        judges = self._judges(validation)
        provenance = self.provenance()
        # Not needed in every run, but a mistake in their bindings should not wait for that.
        self.batch_shapes(), self.decode([])
        configuration.check_all_used()
        config = configuration.operative()
        if not accept_changes:
            self._directory.check_config(config)
        state = train(
            trainer=self.trainer,
            train_input=train_input,
            model_dir=self.model_dir,
            checkpoints=Checkpoints(
                self._directory.path / "checkpoints",
                self.checkpoints_to_keep,
                lambda: self._directory.best_step(self.best_metric),
                provenance,
            ),
            total_steps=self.total_steps,
            eval_period=self.eval_period,
            checkpoint_period=self.checkpoint_period,
            nonfinite=self.nonfinite,
            hooks=Hooks(
                evaluate=lambda params: _named(_metrics(judges, params, validation), "validation"),
                evaluated=self._directory.evaluated,
                on_start=lambda step: self._on_start(step, config),
                on_metrics=lambda step, found: self._record(step, "validation", found),
                on_nonfinite=self._dump_nonfinite,
                initial_params=self._initial_params if self.initial_checkpoint_path else None,
            ),
        )
        return self._report(self.examples(split="test"), state, judges)

    def dry_run(self) -> str:
        """What a training step and a search would take; nothing is read or written."""
        shapes = self.batch_shapes()
        source = shapes["encoder_input_tokens"].shape[1]
        sizes = measure(self.trainer, shapes), measure_search(self.trainer, self.inference, source)
        return "\n".join(map(str, sizes))

    def evaluate(self, split: str) -> Tables:
        """Evaluates a checkpoint on a split and gives the report."""
        examples = self.examples(split=split)
        return self._report(examples, self._restore(), self._judges(examples))

    def predict(self, split: str, output: Path, task: str | None = None) -> int:
        """Writes what the model predicts for every example of a split, one JSON line each.

        Args:
          split: "validation" or "test".
          output: the file.
          task: one of the run's; None where it has only one to predict for.

        Returns:
          How many lines.

        Raises:
          UserError: there is no such task, or it is not clear which.
        """
        found = self.examples(split=split, task=task)
        if len(found) > 1:
            names = ", ".join(examples.task for examples in found)
            raise UserError(f"{self.model_dir} has several tasks: choose one with --task: {names}")
        [examples] = found
        judge = self._judges(found)[examples.task]
        with replacing(output) as draft, draft.open("w") as file:
            for record in judge.predictions(self._restore().params, examples):
                file.write(json.dumps(record) + "\n")
        return len(examples)

    def recommender(self, exact: bool = False) -> Recommender:
        """Answers any history; `exact` scores every item for it."""
        examples = self._retrieval("test", 1)
        return Recommender(
            domain=examples.domain,
            ask=examples.ask,
            model=self._model(examples),
            params=self._restore().params,
            exact=exact,
        )

    def beam_recall(self, split: str, num_examples: int) -> dict[str, float]:
        """How many of the exactly best items the beam finds, on the first examples of a split."""
        examples = self._retrieval(split, num_examples)
        asked = self._restore().params, examples.inputs, examples.offsets, examples.events
        beam, exact = (self._model(examples).rank(*asked, exact=exact) for exact in (False, True))
        return {
            name: value
            for protocol, found, best in zip(("full", "full_unseen"), beam, exact, strict=True)
            for name, value in metrics.beam_recall(found.items, best.items, protocol).items()
        }

    def _retrieval(self, split: str, num_examples: int) -> RetrievalExamples:
        """Examples of the run's retrieval task, the first one if there are several."""
        for examples in self.examples(split=split, num_examples=num_examples):
            if isinstance(examples, RetrievalExamples) and examples.ask:
                return examples
        raise UserError(f"{self.model_dir} was not trained to retrieve: it has no retrieval task")

    def _model(self, examples: Examples) -> CatalogueModel:
        """The network over what it may answer to some examples; tasks of one catalogue share it."""
        rating = isinstance(examples, RatingExamples)
        catalogue = as_matrix(examples.stars if rating else examples.catalogue)
        name = fingerprint(catalogue)
        if name not in self._models:
            self._models[name] = CatalogueModel(
                self.trainer.model.module,
                self.trainer.partitioner,
                catalogue,
                self.inference,
                index_folder=None if rating else examples.domain.path,
            )
        return self._models[name]

    def _initial_params(self) -> Any:
        _, params = load_params(self.initial_checkpoint_path, self.trainer.model.module.config)
        return params

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.model_dir)

    def _on_start(self, step: int, config: str) -> None:
        if processes.is_first():
            self._directory.write_config(config)
            self._directory.forget_after(step)

    def _dump_nonfinite(self, step: int, batch: Mapping[str, np.ndarray], rows: np.ndarray) -> str:
        """Writes the rows of a batch, or all of them, as text; tells where."""
        path = self._directory.path / "nonfinite" / f"step_{step}.txt"
        if processes.is_first():
            path.parent.mkdir(exist_ok=True)
            shown = rows if len(rows) else range(len(batch["decoder_target_tokens"]))
            with replacing(path) as draft:
                draft.write_text("\n".join(row_text(batch, int(row), self.decode) for row in shown))
        return f"The examples are in {path}"

    def _judges(self, found: Sequence[Examples]) -> dict[str, Judge]:
        return {examples.task: judge(examples, self._model(examples)) for examples in found}

    def _report(
        self, found: Sequence[Examples], state: TrainState, judges: Mapping[str, Judge]
    ) -> Tables:
        models = _metrics(judges, state.params, found)
        split = found[0].split
        self._record(int(state.step), split, _named(models, split))
        return {
            examples.task: {
                "recalign": models[examples.task],
                **judges[examples.task].baselines(examples),
            }
            for examples in found
        }

    def _record(self, step: int, split: str, found: Mapping[str, float]) -> None:
        if not processes.is_first():
            return
        shown = {name.replace(f"/{split}/", " "): value for name, value in found.items()}
        told = [f"{name} {value:.4f}" for name, value in shown.items() if name.endswith(HEADLINE)]
        log.info("step %d, %s: %s", step, split, ", ".join(told))
        self._directory.record(step, split, found)
        if split == "validation":
            self._check_best_metric(shown)

    def _check_best_metric(self, measured: Mapping[str, float]) -> None:
        metric = self.best_metric
        if metric and self._directory.best_step(metric) is None:
            log.warning(
                "BEST_METRIC is %r, which is not measured, so no checkpoint is kept as the best; "
                "there are %s",
                metric,
                ", ".join(measured),
            )

    def _check_vocabulary(self) -> None:
        rows, needed = self.trainer.model.module.config.vocab_size, self.vocabulary_size()
        if needed > rows:
            raise UserError(
                f"the vocabulary has {needed} token ids, sentinels included, but the model only "
                f"{rows} rows (VOCAB_SIZE): they do not fit together"
            )

    def _restore(self) -> TrainState:
        folder = self._directory.path / "checkpoints"
        if not folder.exists():
            raise UserError(f"{folder} holds no checkpoint")
        checkpoints = Checkpoints(folder, provenance=self.provenance(), read_only=True)
        return checkpoints.restore(self.trainer.abstract_state(), step=self._chosen_step())

    def _chosen_step(self) -> int | None:
        if self.step == "newest":
            return None
        if self.step == "best":
            found = self._directory.best_step(self.best_metric)
            if found is None:
                raise UserError(f"{self.model_dir} has no evaluation with {self.best_metric}")
            return found
        if not self.step.isdecimal():
            raise UserError(f"--step {self.step}: neither a number, nor `best`, nor `newest`")
        return int(self.step)


def _metrics(judges: Mapping[str, Judge], params: Any, found: Sequence[Examples]) -> Rows:
    """The `<protocol>/<metric>` of one model on each task."""
    return {examples.task: judges[examples.task].metrics(params, examples) for examples in found}


def _named(rows: Rows, split: str) -> dict[str, float]:
    """The rows of tasks as one flat object, `<task>/<split>/<protocol>/<metric>`."""
    return {
        name: value
        for task, row in rows.items()
        for name, value in report.add_prefix(row, task, split).items()
    }


def load(model_dir: str, step: str = "newest") -> Run:
    """The run that was trained in a folder, as its config.gin says, at one of its checkpoints.

    Raises:
      UserError: there is no run.
    """
    config = Path(model_dir) / CONFIG
    if not config.exists():
        raise UserError(f"{model_dir} holds no run: there is no {config}")
    configuration.parse([str(config)])
    run = gin.get_configurable(Run)()
    return dataclasses.replace(run, model_dir=model_dir, step=step)
