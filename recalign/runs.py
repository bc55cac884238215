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

from recalign import configuration
from recalign.engine import processes
from recalign.engine.checkpoints import Checkpoints
from recalign.engine.convert import load_params
from recalign.engine.dry_run import Sizes, measure
from recalign.engine.model import TrainState
from recalign.engine.retriever import Retriever
from recalign.engine.train import Hooks, train
from recalign.engine.trainer import Trainer
from recalign.errors import UserError
from recalign.evaluation import baselines, metrics, report
from recalign.evaluation.examples import RetrievalExamples
from recalign.files import replacing
from recalign.run_directory import CONFIG, RunDirectory

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
      checkpoints_to_keep: only so many newest ones stay, and the best one.
      best_metric: which one is best on validation: a metric, or how its name ends.
      provenance: tells what the parameters belong to, such as the vocabulary, by fingerprints.
      decode: turns token ids into text, for messages.
      nonfinite: what to do about a loss that is not finite, see `train`.
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
    best_metric: str | None = None
    initial_checkpoint_path: str | None = None
    provenance: Callable[[], Mapping[str, str]] = dict
    decode: Callable[[Sequence[int]], str] = str
    nonfinite: str = "stop"

    def __post_init__(self):
        if "://" in self.model_dir:
            raise UserError(
                f"MODEL_DIR is {self.model_dir}, but must be a local folder; copy it to a bucket "
                "afterwards"
            )

    def train(self, accept_changes: bool = False) -> Rows:
        """Trains, evaluating on validation, and at the end evaluates on test.

        Args:
          accept_changes: go on with a configuration that is not the one the run began with.

        Returns:
          The rows of the report on test.

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
        retriever = self._ranker(validation)
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
                evaluate=lambda params: _judge(retriever, params, validation),
                evaluated=self._directory.evaluated,
                on_start=lambda step: self._on_start(step, config),
                on_metrics=lambda step, found: self._record(step, validation, found),
                on_nonfinite=self._dump_nonfinite,
                initial_params=self._initial_params if self.initial_checkpoint_path else None,
            ),
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
                draft.write_text("".join(self._as_text(batch, int(row)) for row in shown))
        return f"The examples are in {path}"

    def _as_text(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        """A row of a batch, the examples packed in it apart."""
        lines = [f"row {row}"]
        tokens = {
            "inputs": batch["encoder_input_tokens"][row],
            "targets": batch["decoder_target_tokens"][row],
        }
        segments = {
            "inputs": batch.get("encoder_segment_ids"),
            "targets": batch.get("decoder_segment_ids"),
        }
        of = {
            side: (ids > 0).astype(int) if segments[side] is None else segments[side][row]
            for side, ids in tokens.items()
        }
        for segment in range(1, max(of["inputs"].max(), of["targets"].max()) + 1):
            for side, ids in tokens.items():
                lines.append(f"  {side}: {self.decode(ids[of[side] == segment].tolist())}")
        return "\n".join(lines) + "\n\n"

    def _ranker(self, examples: RetrievalExamples) -> Retriever:
        return self.retriever(
            module=self.trainer.model.module,
            partitioner=self.trainer.partitioner,
            catalogue=examples.catalogue,
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
        self._directory.record(step, examples.split, named)

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
    config = Path(model_dir) / CONFIG
    if not config.exists():
        raise UserError(f"{model_dir} holds no run: there is no {config}")
    configuration.parse([str(config)])
    run = gin.get_configurable(Run)()
    return dataclasses.replace(run, model_dir=model_dir)
