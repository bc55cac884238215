"""A run: one configuration, trained, evaluated and asked for predictions."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gin
import numpy as np

from recalign import configuration
from recalign.engine import processes
from recalign.engine.checkpoints import Checkpoints
from recalign.engine.convert import load_params
from recalign.engine.dry_run import Sizes, measure
from recalign.engine.model import TrainState
from recalign.engine.retriever import Retriever
from recalign.engine.train import train
from recalign.engine.trainer import Trainer
from recalign.errors import UserError
from recalign.evaluation import baselines, metrics, report
from recalign.evaluation.examples import RetrievalExamples
from recalign.files import replacing
from recalign.recommender import Recommender

log = logging.getLogger(__name__)

Rows = dict[str, dict[str, float]]
HEADLINE = ("full/hr@10", "full/ndcg@10", "full_unseen/hr@10", "full_unseen/ndcg@10")


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
      examples: given a split, gives the examples to evaluate retrieval on.
      retriever: ranks the catalogue for them.
      total_steps: the step to stop at.
      eval_period: steps between evaluations on validation; 0 means only at the end.
      eval_examples: so many examples of validation are enough; None takes all. Test takes all.
      checkpoint_period: steps between checkpoints.
      checkpoints_to_keep: only so many newest ones stay.
      initial_checkpoint_path: a checkpoint of T5X, Hugging Face or Orbax whose parameters a new
        run starts from; None starts from scratch.
    """

    model_dir: str
    trainer: Trainer
    train_input: Callable[[], Iterator[Mapping[str, np.ndarray]]]
    batch_shapes: Callable[[], Mapping[str, Any]]
    vocabulary_size: Callable[[], int]
    examples: Callable[..., RetrievalExamples]
    retriever: Callable[..., Retriever]
    total_steps: int
    eval_period: int = 1000
    eval_examples: int | None = None
    checkpoint_period: int = 1000
    checkpoints_to_keep: int | None = 2
    initial_checkpoint_path: str | None = None

    def __post_init__(self):
        if "://" in self.model_dir:
            raise UserError(
                f"MODEL_DIR is {self.model_dir}, but must be a local folder; copy it to a bucket "
                "afterwards"
            )

    def train(self) -> Rows:
        """Trains, evaluating on validation, and at the end evaluates on test.

        Returns:
          The rows of the report on test.

        Raises:
          UserError: the vocabulary does not fit the model, a feature does not fit its task, or
            something is configured that nothing uses.
        """
        self._check_vocabulary()
        train_input = self.train_input()
        validation = self.examples(split="validation", num_examples=self.eval_examples)
        retriever = self._ranker(validation)
        self.batch_shapes()  # only a dry run needs them, but their bindings are no mistake
        configuration.check_all_used()
        state = train(
            trainer=self.trainer,
            train_input=train_input,
            model_dir=self.model_dir,
            total_steps=self.total_steps,
            evaluate=lambda params: _judge(retriever, params, validation),
            eval_period=self.eval_period,
            checkpoint_period=self.checkpoint_period,
            checkpoints_to_keep=self.checkpoints_to_keep,
            initial_params=self._initial_params if self.initial_checkpoint_path else None,
            on_start=self._write_config,
            on_metrics=lambda step, found: self._record(step, validation, found),
        )
        return self._report(self.examples(split="test"), state, retriever)

    def dry_run(self) -> Sizes:
        """What a training step would take; nothing is read or written."""
        return measure(self.trainer, self.batch_shapes())

    def evaluate(self, split: str) -> Rows:
        """Evaluates the newest checkpoint on a split.

        Returns:
          The rows of the report: the model, then the baselines.
        """
        examples = self.examples(split=split)
        return self._report(examples, self._restore(), self._ranker(examples))

    def predict(self, split: str, output: Path, depth: int = 20) -> int:
        """Writes the ranked items of every example of a split, one JSON line each.

        Returns:
          How many lines.
        """
        examples = self.examples(split=split)
        ranked, _ = self._ranker(examples).rank(
            self._restore().params, examples.inputs, examples.offsets, examples.events
        )
        keys = examples.domain.items["key"].to_numpy()
        histories = np.split(examples.events, examples.offsets[1:-1])
        with replacing(output) as draft, draft.open("w") as file:
            for history, target, items, scores in zip(
                histories, examples.targets, *ranked, strict=True
            ):
                found = items[:depth] >= 0
                record = {
                    "history": keys[history].tolist(),
                    "target": keys[target],
                    "items": keys[items[:depth][found]].tolist(),
                    "scores": scores[:depth][found].tolist(),
                }
                file.write(json.dumps(record) + "\n")
        return len(examples)

    def recommender(self, exact: bool = False) -> Recommender:
        """Answers any history, with the newest checkpoint; `exact` scores every item for it."""
        examples = self.examples(split="test", num_examples=1)
        params = self._restore().params
        options = {"exact": True} if exact else {}
        return Recommender(
            domain=examples.domain,
            ask=examples.ask,
            retriever=self._ranker(examples, **options),
            params=params,
        )

    def beam_recall(self, split: str, num_examples: int) -> dict[str, float]:
        """How many of the exactly best items the beam finds, on the first examples of a split."""
        examples = self.examples(split=split, num_examples=num_examples)
        params = self._restore().params
        beam, exact = (
            self._ranker(examples, exact=exact).rank(
                params, examples.inputs, examples.offsets, examples.events
            )
            for exact in (False, True)
        )
        return metrics.beam_recall(beam[0].items, exact[0].items) | metrics.beam_recall(
            beam[1].items, exact[1].items, protocol="full_unseen"
        )

    def _initial_params(self) -> Any:
        _, params = load_params(self.initial_checkpoint_path, self.trainer.model.module.config)
        return params

    def _write_config(self) -> None:
        if not processes.is_first():
            return
        with replacing(Path(self.model_dir) / "config.gin") as draft:
            draft.write_text(configuration.operative())

    def _ranker(self, examples: RetrievalExamples, **options: Any) -> Retriever:
        return self.retriever(
            module=self.trainer.model.module,
            partitioner=self.trainer.partitioner,
            catalogue=examples.catalogue,
            **options,
        )

    def _report(self, examples: RetrievalExamples, state: TrainState, retriever: Retriever) -> Rows:
        found = _judge(retriever, state.params, examples)
        self._record(int(state.step), examples, found)
        train = examples.domain.train()
        histories = (examples.offsets, examples.events)
        others = baselines.baseline_metrics(
            train, histories, examples.targets, examples.domain.num_items
        )
        return {"recalign": found, **others}

    def _record(self, step: int, examples: RetrievalExamples, found: Mapping[str, float]) -> None:
        if not processes.is_first():
            return
        shown = ", ".join(f"{name} {found[name]:.4f}" for name in HEADLINE)
        log.info("step %d, %s: %s", step, examples.split, shown)
        named = report.add_prefix(found, examples.task, examples.split)
        folder = Path(self.model_dir)
        report.append_metrics(folder / "metrics.jsonl", step, examples.split, named)
        report.write_metrics(folder / "metrics.json", named)

    def _check_vocabulary(self) -> None:
        rows, needed = self.trainer.model.module.config.vocab_size, self.vocabulary_size()
        if needed > rows:
            raise UserError(
                f"the vocabulary has {needed} token ids, sentinels included, but the model only "
                f"{rows} rows (VOCAB_SIZE): they do not fit together"
            )

    def _restore(self) -> TrainState:
        checkpoints = Checkpoints(Path(self.model_dir) / "checkpoints")
        return checkpoints.restore(self.trainer.abstract_state())


def _judge(retriever: Retriever, params: Any, examples: RetrievalExamples) -> dict[str, float]:
    """`full/…` and `full_unseen/…` of one model on some examples."""
    everything, unseen = retriever.rank(params, examples.inputs, examples.offsets, examples.events)
    num_items = examples.domain.num_items
    return metrics.full_ranking(
        everything.items, examples.targets, num_items
    ) | metrics.full_ranking(unseen.items, examples.targets, num_items, protocol="full_unseen")


def load(model_dir: str) -> Run:
    """The run that was trained in a folder, as its config.gin says.

    Raises:
      UserError: there is no run.
    """
    config = Path(model_dir) / "config.gin"
    if not config.exists():
        raise UserError(f"{model_dir} holds no run: there is no {config}")
    configuration.parse([str(config)])
    run = gin.get_configurable(Run)()
    return dataclasses.replace(run, model_dir=model_dir)
