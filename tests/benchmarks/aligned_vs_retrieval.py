"""Does alignment help? Trains both mixtures of the toy shop with equal steps, over several seeds.

    recalign prepare toyshop
    python tests/benchmarks/aligned_vs_retrieval.py --seeds 0,1,2 --steps 800

Prints each mixture's mean and standard deviation on the test split. Equal steps means equally many
tokens: in `aligned` a quarter of the samples are retrieval samples, in `retrieval_only` all are.
"""

import statistics
import tempfile

import click
import gin

from recalign import configuration, runs

METRICS = ("full/hr@1", "full/hr@10", "full/ndcg@10", "full_unseen/hr@10", "full_unseen/ndcg@10")


def test_metrics(mixture: str, seed: int, steps: int) -> dict[str, float]:
    """Trains once, from scratch, and gives the metrics on test."""
    with tempfile.TemporaryDirectory() as folder:
        bindings = [
            f"MODEL_DIR={folder}",
            f"MIXTURE_OR_TASK_NAME=toyshop_{mixture}",
            f"RANDOM_SEED={seed}",
            f"TRAIN_STEPS={steps}",
            "EVAL_PERIOD=0",
            "EVAL_EXAMPLES=64",
        ]
        configuration.parse(["toyshop.gin"], bindings)
        return gin.get_configurable(runs.Run)().train()["toyshop_retrieval"]["recalign"]


@click.command()
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--steps", default=800, show_default=True)
def main(seeds: str, steps: int) -> None:
    """Prints the table."""
    click.echo(f"{steps} steps, seeds {seeds}; mean ± standard deviation on toyshop's test split\n")
    click.echo(f"| mixture | {' | '.join(METRICS)} |\n|---|{'---:|' * len(METRICS)}")
    for mixture in ("retrieval_only", "aligned"):
        found = [test_metrics(mixture, int(seed), steps) for seed in seeds.split(",")]
        cells = []
        for metric in METRICS:
            values = [row[metric] for row in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        click.echo(f"| {mixture} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
