"""What a run's network reaches on the tasks that it is evaluated on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recalign.engine import processes
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from recalign.engine.search.saved_trie import fingerprint
from recalign.engine.search.trie import as_matrix
from recalign.engine.training.loop import Evaluator
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError
from recalign.evaluation import metrics, mixing, report
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.rows import Rows
from recalign.evaluation.data import Data
from recalign.evaluation.examples import Examples, RatingExamples, RetrievalExamples
from recalign.evaluation.judges import Judge, judge
from recalign.evaluation.outcomes import Evaluated, summarise
from recalign.progress import track
from recalign.runs import details


@dataclasses.dataclass(frozen=True)
class Report:
    """What a checkpoint reaches on a split.

    Attributes:
      step: of the checkpoint.
      split: "validation" or "test".
      best_by: the metric by which it is the best on validation; None if it is not.
      tables: the rows of each task: the model, what was asked for beside it, then the baselines.
      signed: the names of rows that are differences.
    """

    step: int
    split: str
    best_by: str | None
    tables: dict[str, Rows]
    signed: frozenset[str] = frozenset()

    def __str__(self):
        best = f", the best on validation by {self.best_by}" if self.best_by else ""
        tables = report.format_report(self.tables, self.signed)
        return f"{self.split}, step {self.step}{best}\n\n{tables}"

    def flat(self) -> dict[str, float]:
        """Every row as one flat object, `<task>/<row>/<split>/<protocol>/<metric>`."""
        return {
            name: value
            for task, rows in self.tables.items()
            for row, found in rows.items()
            for name, value in report.add_prefix(found, f"{task}/{row}", self.split).items()
        }


class Evaluation:
    """Evaluates parameters of one network on examples; compiled once for all splits.

    Args:
      trainer: the network and its layout.
      data: tells how items are written.
      inference: how the network is asked.
    """

    def __init__(self, trainer: Trainer, data: Data, inference: Inference):
        self._trainer, self._data, self._inference = trainer, data, inference
        self._models: dict[str, CatalogueModel] = {}

    def catalogue_model(self, examples: Examples) -> CatalogueModel:
        """The network over what it may answer to some examples; tasks of one catalogue share it."""
        rating = isinstance(examples, RatingExamples)
        catalogue = as_matrix(examples.stars if rating else self._data.item_tokens(examples.task))
        name = fingerprint(catalogue)
        if name not in self._models:
            self._models[name] = CatalogueModel(
                self._trainer.model.module,
                self._trainer.partitioner,
                catalogue,
                self._inference,
                index_folder=None if rating else examples.domain.path,
            )
        return self._models[name]

    def evaluate(self, params: Any, found: Sequence[Examples]) -> dict[str, Evaluated]:
        """What the network comes to on each task."""
        return {e.task: self._judge(e).evaluate(params, e) for e in found}

    def baselines(self, found: Sequence[Examples]) -> dict[str, Rows]:
        """The metrics of what stands beside the network, by task and name, with intervals."""
        shown = track(found, "baselines", "task", shown=processes.is_first())
        return {e.task: baselines.beside(e) for e in shown}

    def answers(
        self, params: Any, found: Sequence[Examples], seed: int
    ) -> dict[str, dict[str, Any]]:
        """What a few examples of each retrieval task come to, see `details.answer`."""
        return {
            e.task: details.answer(
                self.catalogue_model(e),
                params,
                e,
                self._data.item_tokens(e.task),
                self._data.decode,
                seed,
            )
            for e in found
            if type(e) is RetrievalExamples
        }

    def scorer(
        self,
        params: Any,
        read: Callable[[RetrievalExamples], RetrievalExamples] = lambda asked: asked,
    ) -> mixing.Scorer:
        """The network's scores of the whole catalogue.

        Args:
          params: its parameters.
          read: makes of examples that others are asked the same ones as this network reads them.
        """

        def score(asked: RetrievalExamples, rows: slice) -> np.ndarray:
            own = read(asked)
            return self.catalogue_model(own).score_all(params, own.inputs[rows], own.given[rows])

        return score

    def mix(
        self,
        params: Any,
        examples: RetrievalExamples,
        held: RetrievalExamples,
        terms: Sequence[mixing.Term],
    ) -> Rows:
        """Ranks by the sum of the network's scores and of other models', see `mixing`.

        Weights are chosen by the examples of validation that are held.

        Returns:
          The rows of the sum and of each of the others, by name.
        """
        scorers = [self.scorer(params), *(term.score for term in terms)]
        weights = mixing.choose_weights(scorers, held)
        parts = [f"{w:g} {term.label}" for w, term in zip(weights[1:], terms, strict=True)]
        names = [" + ".join(["recalign", *parts]), *(term.label for term in terms)]
        found = mixing.evaluate_sum(scorers, weights, examples)
        return {name: summarise([each]) for name, each in zip(names, found, strict=True)}

    def predictions(self, params: Any, examples: Examples) -> Iterator[dict]:
        """What the network predicts, a JSON-ready object an example."""
        return self._judge(examples).predictions(params, examples)

    def beam_recall(self, params: Any, examples: RetrievalExamples) -> dict[str, float]:
        """How many of the exactly best items the beam finds."""
        model = self.catalogue_model(examples)
        asked = params, examples.inputs, examples.offsets, examples.events
        beam, exact = (
            model.rank(*asked, exact=exact, given=examples.given) for exact in (False, True)
        )
        return {
            name: value
            for protocol, found, best in zip(("full", "full_unseen"), beam, exact, strict=True)
            for name, value in metrics.beam_recall(found.items, best.items, protocol).items()
        }

    def evaluators(
        self,
        validation: Sequence[Examples],
        period: int,
        periods: Mapping[str, int],
        on_evaluated: Callable[[Mapping[str, Evaluated]], None],
    ) -> list[Evaluator]:
        """What training evaluates with: one for all tasks that are evaluated in the same period.

        Args:
          validation: the examples of every task.
          period: steps between evaluations; 0 means only at the end.
          periods: the same for kinds of tasks that have a period of their own ("ranking").
          on_evaluated: told what the tasks of each evaluation came to.

        Raises:
          UserError: there is no such kind, or a catalogue does not fit the network.
        """
        kinds = [examples.task.rsplit("_", 1)[-1] for examples in validation]
        if unknown := sorted(periods.keys() - set(kinds)):
            raise UserError(
                f"EVAL_PERIODS has {', '.join(unknown)}, but what is evaluated is "
                f"{', '.join(sorted(set(kinds)))}"
            )
        by_period: dict[int, list[Examples]] = {}
        for kind, examples in zip(kinds, validation, strict=True):
            by_period.setdefault(periods.get(kind, period), []).append(examples)
        for examples in validation:
            self.catalogue_model(examples)  # what does not fit is told before the first step

        def evaluate(found: Sequence[Examples], params: Any) -> dict[str, float]:
            evaluated = self.evaluate(params, found)
            on_evaluated(evaluated)
            rows = {task: each.metrics for task, each in evaluated.items()}
            return name_metrics(rows, "validation")

        return [
            Evaluator(functools.partial(evaluate, found), period, [each.task for each in found])
            for period, found in by_period.items()
        ]

    def _judge(self, examples: Examples) -> Judge:
        return judge(examples, self.catalogue_model(examples), self._data.decode)


def name_metrics(rows: Rows, split: str) -> dict[str, float]:
    """The rows of tasks as one flat object, `<task>/<split>/<protocol>/<metric>`."""
    return {
        name: value
        for task, row in rows.items()
        for name, value in report.add_prefix(row, task, split).items()
    }
