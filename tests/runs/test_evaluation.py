"""What stands beside a run's network, where the network is a table of scores."""

import re

import numpy as np

from recalign.evaluation import mixing
from recalign.evaluation.baselines import rows as baselines
from recalign.runs.comparison import baseline_term
from recalign.runs.evaluation import Evaluation
from tests.evaluation.shops import domain, on_disk, retrieval


class Table:
    """Stands in for a network over a catalogue: knows some targets, whose questions tell which."""

    def __init__(self, examples):
        rng = np.random.default_rng(0)
        self.scores = rng.normal(size=(2, len(examples[0]), examples[0].domain.num_items))
        for part, asked in zip(self.scores, examples, strict=True):
            known = rng.random(len(asked)) < 0.5
            part[known, asked.targets[known]] += 6

    def score_all(self, params, inputs, given=()):
        part, row = np.array([*inputs]).T
        return self.scores[part, row].astype(np.float32)


def test_a_network_is_added_to_baselines(tmp_path, monkeypatch):
    shop = on_disk(domain(), tmp_path / "shop")
    examples = [retrieval(shop, split) for split in ("validation", "test")]
    for part, asked in enumerate(examples):
        asked.inputs[:] = [np.array([part, row]) for row in range(len(asked))]
    table = Table(examples)
    evaluation = Evaluation(None, None, None)
    monkeypatch.setattr(evaluation, "catalogue_model", lambda _: table)
    held, asked = examples
    terms = [baseline_term(asked, name) for name in ("cooccurrence", "slit")]
    rows = evaluation.mix(None, asked, held, terms)
    together, *others = rows
    assert others == ["item co-occurrence", "SLIT"]
    pattern = r"recalign \+ ([\d.]+) item co-occurrence \+ ([\d.]+) SLIT"
    weights = [1.0, *map(float, re.fullmatch(pattern, together).groups())]
    scorers = [lambda examples, rows: table.score_all(None, examples.inputs[rows])]
    for name in ("cooccurrence", "slit"):
        ranker, _ = baselines.fitted_ranker(shop, name)
        scorers.append(mixing.scorer_of(ranker, shop.num_items))
    assert mixing.choose_weights(scorers, held) == weights
    found = mixing.evaluate_sum(scorers, weights, asked)[0].metrics
    assert found.items() < rows[together].items()
    assert {"full/low/hr@10", "full_unseen/high/ndcg@10"} < rows[together].keys()
    [alone] = baselines.domain_rows(shop, "test", ["slit"]).values()
    of_lists = {n: v for n, v in alone.metrics().items() if n.startswith("full")}
    assert of_lists.items() <= rows["SLIT"].items()
