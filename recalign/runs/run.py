"""A run: one configuration, trained, evaluated and asked for predictions."""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gin
import jax

import recalign
from recalign.bindings import Bindings
from recalign.engine import processes
from recalign.engine.search.inference import Inference
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.dry_run import measure, measure_search
from recalign.engine.training.hlo import explain
from recalign.engine.training.loop import Hooks, train
from recalign.engine.training.model import TrainState
from recalign.engine.training.trainer import Trainer
from recalign.engine.weights.tokenizer import count_added
from recalign.errors import UserError, telling_of_own_code
from recalign.evaluation import mixing
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.data import Data
from recalign.evaluation.examples import Examples, RetrievalExamples, Share
from recalign.evaluation.outcomes import Evaluated, subtract
from recalign.files import in_bucket, locate, replacing
from recalign.progress import Progress
from recalign.runs import calls, configuration, details, macros, recording, safety
from recalign.runs.comparison import Other, baseline_term, other_side, tell_domain
from recalign.runs.directory import CONFIG, FREE, RunDirectory
from recalign.runs.evaluation import Evaluation, Report
from recalign.runs.initial_state import start_state
from recalign.runs.item_embeddings import RANDOM, ItemEmbeddings
from recalign.runs.item_tokens import ItemTokens
from recalign.runs.lock import Check, lock_folder
from recalign.runs.result import Result, commit, read

log = logging.getLogger(__name__)
_E = TypeVar("_E", bound=Examples)


class _Clock:
    """How long a run has been trained, over all its calls.

    Attributes:
      begun: the step that this call goes on from.
    """

    def __init__(self):
        self.begun = 0
        self._before, self._started = 0.0, time.monotonic()

    def go_on_from(self, step: int, directory: RunDirectory) -> None:
        """Adds what earlier calls took up to a step."""
        self.begun = step
        if processes.is_first():
            self._before = directory.seconds(step)

    def seconds(self) -> float:
        """Of all calls, this one included."""
        return self._before + time.monotonic() - self._started


@gin.configurable(denylist=["bindings"])
@dataclasses.dataclass
class Run:
    """What a recipe describes; gin/runs/train.gin binds every field.

    Attributes:
      model_dir: the folder of the run.
      trainer: the model, its layout and its seed.
      data: what it is trained on and asked.
      inference: how it is asked.
      total_steps: the step to stop at.
      eval_period: steps between evaluations on validation; 0 means only at the end.
      eval_periods: the same for kinds of tasks that have a period of their own ("ranking").
      eval_examples: so many examples of validation are enough; None takes all. Test takes all.
      checkpoint_period: steps between checkpoints.
      checkpoints_to_keep: only so many newest ones stay, and the best one.
      best_metric: tells which one is best on validation, see `RunDirectory.best_step`; that is the
        one that is reported.
      patience: stop once so many evaluations have not improved on the best one; None never does.
      initial_checkpoint_path: a checkpoint of T5X, Hugging Face or Orbax whose parameters a new
        run starts from; None starts from scratch.
      item_tokens: what rows start from that the initial checkpoint has not.
      item_embeddings: what the embeddings of items start from in a new run.
      nonfinite: what to do about a loss that is not finite, see `train`.
      step: the checkpoint that is evaluated or asked: "newest", "best" or its number. Training goes
        on from the newest in any case.
      bindings: what of it is in use, and written down.
    """

    model_dir: str
    trainer: Trainer
    data: Data
    total_steps: int
    inference: Inference = dataclasses.field(default_factory=Inference)
    eval_period: int = 1000
    eval_periods: Mapping[str, int] = dataclasses.field(default_factory=dict)
    eval_examples: int | None = None
    checkpoint_period: int = 1000
    checkpoints_to_keep: int | None = 2
    best_metric: str | None = None
    patience: int | None = None
    initial_checkpoint_path: str | None = None
    item_tokens: ItemTokens = dataclasses.field(default_factory=ItemTokens)
    item_embeddings: ItemEmbeddings = dataclasses.field(default_factory=ItemEmbeddings)
    nonfinite: str = "stop"
    step: str = "newest"
    bindings: Bindings = dataclasses.field(default_factory=Bindings.in_force, repr=False)

    def __post_init__(self):
        if in_bucket(self.model_dir) and not self.model_dir.startswith("gs://"):
            raise UserError(
                f"MODEL_DIR is {self.model_dir}, but must be a local folder, or one in a bucket of "
                "Google's (gs://…)"
            )
        macros.check(
            {
                "MODEL_DIR": self.model_dir,
                "TRAIN_STEPS": self.total_steps,
                "EVAL_PERIOD": self.eval_period,
                "EVAL_PERIODS": self.eval_periods,
                "EVAL_EXAMPLES": self.eval_examples,
                "CHECKPOINT_PERIOD": self.checkpoint_period,
                "BEST_METRIC": self.best_metric,
                "PATIENCE": self.patience,
                "INITIAL_CHECKPOINT_PATH": self.initial_checkpoint_path,
                "ON_NONFINITE": self.nonfinite,
            }
        )
        if self.step not in ("newest", "best") and not self.step.isdecimal():
            raise UserError(f"--step {self.step}: neither a number, nor `best`, nor `newest`")
        if self.checkpoints_to_keep is not None and self.checkpoints_to_keep < 1:
            raise UserError(
                f"Run.checkpoints_to_keep is {self.checkpoints_to_keep}, but must be at least 1, "
                "or None for all"
            )
        if self.patience is not None and self.best_metric is None:
            raise UserError(
                f"PATIENCE is {self.patience}, but BEST_METRIC is None: patience with what?"
            )
        self.evaluation = Evaluation(self.trainer, self.data, self.inference)

    def train(self, accept_changes: bool = False, profile: range = range(0)) -> TrainState:
        """Trains, evaluating on validation, and writes what came of it.

        Args:
          accept_changes: go on with a configuration that is not the one the run began with; an
            input that the saved position does not fit then starts anew.
          profile: steps to trace, see the loop.

        Returns:
          The last state.

        Raises:
          UserError: the vocabulary does not fit the model, a feature does not fit its task, or
            something is configured that nothing uses; another process trains in the folder, or
            the run in it began with another configuration.
        """
        folder = self._directory.path
        if profile and in_bucket(folder):
            raise UserError(
                f"--profile: JAX writes traces to local disk alone, and MODEL_DIR is {folder}"
            )
        self._directory.check_own()
        nothing = contextlib.nullcontext(lambda: None)
        with lock_folder(folder) if processes.is_first() else nothing as check:
            return self._train(accept_changes, profile, check)

    def _train(self, accept_changes: bool, profile: range, check: Check) -> TrainState:
        clock = _Clock()
        self._check_vocabulary()
        with self.bindings.active():  # what is used is written down as the data is read
            [batch_size, _] = self.data.batch_shapes()["encoder_input_tokens"]
            train_input = self.data.train_batches(*self.trainer.partitioner.held_rows(batch_size))
            validation = self._examples("validation", self.eval_examples)
            evaluated: dict[str, Evaluated] = {}  # by the evaluation that is under way
            evaluators = self.evaluation.evaluators(
                validation, self.eval_period, self.eval_periods, evaluated.update
            )
            configuration.check_all_used(self.data.idle())
            config, bindings = configuration.operative(), configuration.current()
        if not accept_changes:
            processes.decide_once(lambda: self._directory.check_config(config))
        processes.decide_once(self._directory.check_resumable)

        def on_start(step: int) -> None:
            clock.go_on_from(step, self._directory)
            self._record_start(step, config)

        def on_metrics(step: int, _: Mapping[str, float]) -> None:
            processes.decide_once(check)
            recording.record(self._directory, step, validation, evaluated, self.best_metric)
            evaluated.clear()

        def on_saved(step: int) -> None:
            if processes.is_first():
                self._directory.record_seconds(step, clock.seconds())

        state = train(
            trainer=self.trainer,
            train_input=train_input,
            model_dir=str(self._directory.path),
            checkpoints=Checkpoints(
                self._directory.path / "checkpoints",
                self.checkpoints_to_keep,
                lambda: self._directory.best_step(self.best_metric),
                self.data.provenance(),
                check=check,
            ),
            total_steps=self.total_steps,
            checkpoint_period=self.checkpoint_period,
            nonfinite=self.nonfinite,
            accept_changes=accept_changes,
            profile=profile,
            hooks=Hooks(
                evaluators=evaluators,
                is_evaluated=self._directory.is_evaluated,
                on_start=on_start,
                on_metrics=on_metrics,
                has_enough=self._has_enough,
                on_saved=on_saved,
                on_nonfinite=functools.partial(
                    recording.dump_nonfinite, self._directory.path, self.data.decode
                ),
                initial_state=self._initial_state(),
            ),
        )
        if processes.is_first():
            self._write_result(bindings, clock, int(state.step))
        return state

    def _record_start(self, step: int, config: str) -> None:
        if processes.is_first():
            self._directory.write_config(config)
            self._directory.forget_after(step)
            devices = processes.describe_devices()
            calls.record(self._directory.path, step, self.data.provenance(), devices)

    def _write_result(self, bindings: dict[str, str], clock: _Clock, last_step: int) -> None:
        step, chosen_by = self._best_or_last()
        result = Result(
            version=recalign.__version__,
            commit=commit(),
            configuration=bindings,
            seed=self.trainer.seed,
            seconds=round(clock.seconds(), 1),
            last_step=last_step,
            step=step,
            chosen_by=chosen_by,
            validation=self._directory.metrics_of(step, "validation"),
        )
        earlier = read(self._directory.path)
        no_step = clock.begun == last_step
        if no_step and earlier and earlier.last_step == last_step and earlier.is_of(bindings, FREE):
            result = result.with_origin_of(earlier)
        result.write(self._directory.path)

    def report(self, split: str, last: TrainState | None = None) -> Report:
        """Evaluates the checkpoint that validation chose, or else the last one.

        Args:
          split: "validation" or "test".
          last: the last state, if it is at hand.
        """
        step, _ = processes.decide_once(self._best_or_last)
        log.info("%s: the checkpoint at step %d", split, step)
        at_hand = last.params if last is not None and int(last.step) == step else None
        params = self._restore(step)[1] if at_hand is None else at_hand
        report = self._report(self._examples(split), step, params)
        if split == "test" and processes.is_first() and (known := read(self._directory.path)):
            found = self._directory.metrics_of(step, split)
            dataclasses.replace(known, test=found).write(self._directory.path)
        return report

    def dry_run(self, explained: bool = False) -> str:
        """What a training step and a search would take; no data is read, nothing written.

        Args:
          explained: tells their collectives and largest temporaries too.
        """
        shapes = self.data.batch_shapes()
        source = shapes["encoder_input_tokens"][1]
        step = measure(self.trainer, shapes)
        search = measure_search(self.trainer, self.inference, source)
        why = [explain(step.hlo, "a step"), explain(search.hlo, "a search")] if explained else []
        return "\n".join([str(step), str(search), *self._new_rows(), *why])

    def _new_rows(self) -> list[str]:
        """How many rows of the table are for tokens that the initial checkpoint has not."""
        if not self.initial_checkpoint_path:
            return []
        try:
            self.data.vocabulary_size()
        except UserError:
            return []  # a dry run needs no data, and so no vocabulary
        new = count_added(self.data.vocabulary())[1]
        rows = self.trainer.model.module.config.vocab_size
        return [f"{'new tokens':<20}{new:,} of {rows:,} rows"] if new else []

    def evaluate(
        self, split: str, together_with: Sequence["str | Run"] = (), against: str | None = None
    ) -> Report:
        """Evaluates a checkpoint on a split.

        Args:
          split: "validation" or "test".
          together_with: baselines and other runs whose scores are added to the network's, in a row
            of their own.
          against: a run or a baseline; the differences from it get a row.

        Raises:
          UserError: as for `restore`, `comparison.other_side`, `baselines.check_ranker` and `term`.
        """
        self._directory.check_writable()
        found = self._examples(split)
        mixed = [e for e in found if type(e) is RetrievalExamples] if together_with else []
        if together_with and not mixed:
            self.retrieval_examples(split, 1)  # says that there is none
        for name in together_with:
            if isinstance(name, str):
                for examples in mixed:
                    baselines.check_ranker(examples.domain, name)
        other = other_side(against, found) if against else None
        sums = [self._sum(examples, together_with) for examples in mixed]
        step, params = self.restore()
        made = self._report(found, step, params, other)
        for examples, (held, terms) in zip(mixed, sums, strict=True):
            rows = self.evaluation.mix(params, examples, held, terms)
            table = made.tables[examples.task]
            made.tables[examples.task] = {"recalign": table["recalign"], **rows, **table}
        return made

    def _sum(
        self, examples: RetrievalExamples, together_with: Sequence["str | Run"]
    ) -> tuple[RetrievalExamples, list[mixing.Term]]:
        """The examples that the weights of a sum are chosen by, and the models beside this run."""
        held = self.retrieval_examples("validation", mixing.JUDGED, examples.task)
        terms = [
            baseline_term(examples, each) if isinstance(each, str) else each.term([held, examples])
            for each in together_with
        ]
        return held, terms

    def term(self, asked: Sequence[RetrievalExamples]) -> mixing.Term:
        """This run, at the step that validation chose, as a model of a sum with another run.

        Args:
          asked: what the other one is asked, of one task; of two of a split the last is the longer
            one. This run is asked of the same users in its own words.

        Raises:
          UserError: it has no retrieval task on the content of that domain, or, in a folder of
            tokens, fewer examples; see `restore`.
        """
        wanted, name = tell_domain(asked[-1]), asked[-1].task
        few = self._examples(asked[-1].split, 1)
        tasks = {e.task: tell_domain(e) for e in few if type(e) is RetrievalExamples}
        fit = [task for task, domain in tasks.items() if domain == wanted]
        if not fit:
            has = " and ".join(f"{task} on {domain}" for task, domain in tasks.items())
            raise UserError(
                f"--with {self.model_dir}: it retrieves by {has or 'no task'}, and what is asked "
                f"here is {name} on {wanted}: only models of the same domain can be added"
            )
        task = name if name in fit else fit[0]
        own = {e.split: self.retrieval_examples(e.split, len(e), task) for e in asked}
        for each in asked:
            if (number := len(own[each.split])) < len(each):
                raise UserError(
                    f"--with {self.model_dir}: it has {number:,} examples of {each.split}, and "
                    f"{len(each):,} are asked here: write its folder of tokens with "
                    "--gin.EVAL_EXAMPLES=None"
                )
        step, _ = processes.decide_once(self._best_or_last)
        score = self.evaluation.scorer(self._restore(step)[1], lambda asked: own[asked.split])
        return mixing.Term(f"{self.model_dir}, step {step}", score)

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
        examples = self._only(self._examples(split, task=task))
        predictions = self.evaluation.predictions(self.restore()[1], examples)
        if not processes.is_first():
            collections.deque(predictions, maxlen=0)  # computed by all, and written by one
            return len(examples)
        with replacing(output) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in predictions)
        return len(examples)

    def retrieval_examples(
        self, split: str, num_examples: int | None, task: str | None = None
    ) -> RetrievalExamples:
        """The first examples of a retrieval task of the run; `task` is None where it has one.

        Raises:
          UserError: the run has none, this is none, or it is not clear which.
        """
        judged = self._examples(split, num_examples, task)
        found = [examples for examples in judged if type(examples) is RetrievalExamples]
        if not found:
            which = f"{task} is none" if task else "it has no retrieval task"
            raise UserError(f"{self.model_dir} was not trained to retrieve: {which}")
        return self._only(found)

    def _only(self, found: Sequence[_E]) -> _E:
        """The examples of one task; raises a UserError where they are of several."""
        if len(found) > 1:
            names = ", ".join(examples.task for examples in found)
            raise UserError(f"{self.model_dir} has several tasks: choose one with --task: {names}")
        return found[0]

    def restore(self) -> tuple[int, Any]:
        """The number and the parameters of the checkpoint that `step` says.

        Raises:
          UserError: there is no such checkpoint, or it does not fit the run.
        """
        return self._restore(processes.decide_once(self._chosen_step))

    def _restore(self, step: int | None) -> tuple[int, Any]:
        folder = self._directory.path / "checkpoints"
        if not folder.exists():
            raise UserError(f"{folder} holds no checkpoint")
        checkpoints = Checkpoints(folder, provenance=self.data.provenance(), read_only=True)
        with Progress("reading the checkpoint", unit=None, shown=processes.is_first()):
            return checkpoints.restore_params(self.trainer.abstract_state.params, step)

    def _examples(
        self, split: str, num_examples: int | None = None, task: str | None = None
    ) -> list[Examples]:
        """See `Data.examples`; of several processes each makes its share."""
        share = Share(jax.process_index(), jax.process_count(), processes.exchange)
        return self.data.examples(split, num_examples, task, share)

    def _has_enough(self) -> bool:
        """Whether validation has not improved for `patience` evaluations."""
        if self.patience is None:
            return False
        waited = self._directory.evaluations_since_best(self.best_metric)
        if waited >= self.patience:
            log.info("%s has not improved for %d evaluations: enough", self.best_metric, waited)
        return waited >= self.patience

    def _best_or_last(self) -> tuple[int, str | None]:
        """The step that validation chose and by which metric, or the last one and None.

        Another BEST_METRIC may have chosen what was kept: of what is there, the best.
        """
        kept = self._directory.checkpoints()
        best = self._directory.best_step(self.best_metric, kept)
        return (max(kept, default=0), None) if best is None else (best, self.best_metric)

    def _initial_state(self) -> Callable[[TrainState], TrainState] | None:
        """Makes the first state of a new run of a fresh one; None where it starts from that."""
        if not self.initial_checkpoint_path and self.item_embeddings.start == RANDOM:
            return None
        return functools.partial(
            start_state,
            trainer=self.trainer,
            checkpoint=self.initial_checkpoint_path,
            item_tokens=self.item_tokens,
            item_embeddings=self.item_embeddings,
            data=self.data,
        )

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.model_dir, self.eval_examples)

    def _report(
        self, found: Sequence[Examples], step: int, params: Any, other: Other | None = None
    ) -> Report:
        split = found[0].split
        evaluated = self.evaluation.evaluate(params, found)
        models = recording.record(self._directory, step, found, evaluated, self.best_metric)
        is_best = self._directory.best_step(self.best_metric) == step
        tables = {
            task: {"recalign": models[task], **rows}
            for task, rows in self.evaluation.baselines(found).items()
        }
        answers = self.evaluation.answers(params, found, self.trainer.seed)
        if processes.is_first():
            details.write(self._directory.path, step, split, tables, answers)
        name = f"ahead of {other.name}" if other else ""
        compared = other.outcomes if other else {}
        for task, theirs in compared.items():
            difference = {name: subtract([evaluated[task]], [theirs])}
            tables[task] = {"recalign": models[task], **difference, **tables[task]}
        return Report(
            step=step,
            split=split,
            best_by=self.best_metric if is_best else None,
            tables=tables,
            signed=frozenset([name] if compared else ()),
        )

    def _check_vocabulary(self) -> None:
        rows, needed = self.trainer.model.module.config.vocab_size, self.data.vocabulary_size()
        if needed > rows:
            raise UserError(
                f"the vocabulary has {needed} token ids, sentinels included, but the model only "
                f"{rows} rows (VOCAB_SIZE): they do not fit together"
            )

    def _chosen_step(self) -> int | None:
        if self.step == "newest":
            return None
        if self.step == "best":
            found = self._directory.best_step(self.best_metric, self._directory.checkpoints())
            if found is None:
                raise UserError(
                    f"{self.model_dir} has no checkpoint whose evaluation has {self.best_metric}"
                )
            return found
        return int(self.step)


def make() -> Run:
    """The run that the current configuration describes.

    Raises:
      UserError: a part of it cannot be made of what is bound, or one of the user's own fails.
    """
    with telling_of_own_code("configuration", alone=False):
        return gin.get_configurable(Run)()


def load(model_dir: str, step: str = "newest", modules: Sequence[str] = ()) -> Run:
    """The run that was trained in a folder, as its config.gin says, at one of its checkpoints.

    Args:
      model_dir: the folder.
      step: see `Run`.
      modules: what its configuration may import beside recalign's own, see `safety.check`.

    Raises:
      UserError: there is no run, or its configuration may not be read.
    """
    config = locate(model_dir) / CONFIG
    if not config.exists():
        raise UserError(f"{model_dir} holds no run: there is no {config}")
    configuration.parse_saved(config, modules)
    run = make()
    safety.check_module(getattr(run.data, "module", None), modules)
    return dataclasses.replace(run, model_dir=model_dir, step=step)
