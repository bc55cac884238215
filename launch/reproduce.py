#!/usr/bin/env python3
r"""The paper's table: on every domain, the aligned mixture beside each recommendation task alone.

    launch/reproduce.sh --model base --domains beauty,toys,sports --dry_run
    launch/reproduce.sh --model base --domains beauty,toys,sports

Prepares each domain from McAuley's files, which are fetched where --raw does not hold them, trains
and evaluates every run in OUTPUT/MODEL-DOMAIN-MIXTURE, and prints the table, which OUTPUT/MODEL.md
keeps. Called again, it goes on where it was cut off. --dry_run tells commands and chip-hours alone.
What follows a lone `--` goes to every `recalign train`.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import sizing

SOURCE = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
CATEGORIES = {"beauty": "Beauty", "toys": "Toys_and_Games", "sports": "Sports_and_Outdoors"}
MIXTURES = ("aligned", "retrieval_only", "ranking_only", "rating_only")
CHECKPOINTS = "gs://t5-data/pretrained_models/t5x"
MODELS = {  # what follows a domain's recipe, which is FLAN-T5-Base's
    "base": (),
    "xl": (
        "--gin_file=models/flan_t5_xl.gin",
        "--gin.DROPOUT_RATE=0.1",
        f"--gin.INITIAL_CHECKPOINT_PATH={CHECKPOINTS}/flan_t5_xl/checkpoint_1138000",
        "--gin.Partitioner.rules=fully_sharded",
        "--gin.REMAT_POLICY=full",
    ),
}
SLICES = {"base": "v5e:2x4", "xl": "v6e:2x4"}  # of one host each, and it fits: launch/README.md


@dataclasses.dataclass(frozen=True)
class Training:
    """One model on one mixture of one domain."""

    model: str
    domain: str
    mixture: str
    output: Path
    flags: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is; `launch/tpu_vm.py run --name` takes such a name too, and fetches there."""
        return self.output / f"{self.model}-{self.domain}-{self.mixture.replace('_', '-')}"

    @property
    def command(self) -> list[str]:
        """Trains it, or goes on with it."""
        return [
            *("recalign", "train", f"--gin_file={self.domain}.gin", *MODELS[self.model]),
            f"--gin.MIXTURE_OR_TASK_NAME={self.domain}_{self.mixture}",
            *(*self.flags, f"--gin.MODEL_DIR={self.folder}"),
        ]

    def metrics(self) -> dict[str, float]:
        """`<protocol>/<metric>` on test; empty until the run has come to its end."""
        path = self.folder / "metrics.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {
            metric: value
            for name, value in found.items()
            for _, split, metric in [name.partition("/test/")]
            if split
        }


class Interrupted(Exception):  # noqa: N818 (the command has said what is wrong)
    """A command ended with another exit code than 0, which this is."""


def call(command: Sequence[str]) -> None:
    """Runs a command and shows it; its own exit code is ours, 75 ("again") included."""
    print(f"+ {shlex.join(command)}", flush=True)
    if code := subprocess.run(command, check=False).returncode:
        raise Interrupted(code)


def fetch(url: str, path: Path) -> None:
    """Downloads a file, whole or not at all."""
    print(f"+ fetch {url}", flush=True)
    draft = path.with_name(f".{path.name}.partial")
    draft.parent.mkdir(parents=True, exist_ok=True)
    urllib.request.urlretrieve(url, draft)
    draft.rename(path)


def prepare(domain: str, options: argparse.Namespace) -> None:
    """Makes a prepared domain of McAuley's files, with ratings, unless there is one."""
    from recalign import domains
    from recalign.errors import UserError

    if domain in domains.list_prepared():
        if "ratings" not in domains.statistics_of(domain):
            raise UserError(
                f"{domains.data_dir() / domain} was prepared without ratings, which the table "
                "needs: move it away, and it is prepared anew from McAuley's files"
            )
        return
    category = CATEGORIES[domain]
    files = {"--reviews": f"reviews_{category}_5.json.gz", "--meta": f"meta_{category}.json.gz"}
    for name in files.values():
        if not (options.raw / name).exists():
            fetch(f"{options.source}/{name}", options.raw / name)
    given = [f"{flag}={options.raw / name}" for flag, name in files.items()]
    given += [f"--vocabulary={options.vocabulary}"] if options.vocabulary else []
    call(["recalign", "prepare", "amazon2014", *given, f"--name={domain}"])


def table(trainings: Sequence[Training]) -> str:
    """Each domain's metrics: aligned, and each task alone; a protocol of the report a table."""
    from recalign.evaluation import report

    found: dict[str, dict[str, dict[str, float]]] = {}
    for training in trainings:
        row = "aligned" if training.mixture == "aligned" else "each task alone"
        rows = found.setdefault(training.domain, {})
        rows[row] = rows.get(row, {}) | training.metrics()
    return "\n\n".join(
        f"## {domain}\n\n{report.format_tables(rows)}" for domain, rows in found.items()
    )


def chip_hours(training: Training, topology: str) -> tuple[int, float, float]:
    """Steps of a run, FLOPs of one (as `recalign train --dry_run` tells them), and chip-hours.

    By arithmetic: at `sizing.UTILISATION` of the chips' peak, evaluation left out.
    """
    import gin

    from recalign.engine.network.config import step_flops
    from recalign.runs import configuration, run

    flags = [flag.partition("=") for flag in training.command[2:]]
    files = [value for name, _, value in flags if name == "--gin_file"]
    bindings = [
        f"{name.removeprefix('--gin.')}={value}" for name, _, value in flags if name != "--gin_file"
    ]
    configuration.parse(files, bindings)
    made = gin.get_configurable(run.Run)()
    lengths = gin.query_parameter("%TASK_FEATURE_LENGTHS")
    flops = step_flops(
        made.trainer.model.module.config,
        gin.query_parameter("%BATCH_SIZE"),
        lengths["inputs"],
        lengths["targets"],
    )
    _, peak = sizing.CHIPS[topology.partition(":")[0]]
    return made.total_steps, flops, made.total_steps * flops / (peak * sizing.UTILISATION) / 3600


def tell(trainings: Sequence[Training], topology: str) -> None:
    """Prints what would be run, and what it takes of a slice."""
    chips = sizing.chips(topology)
    lines, total = [], 0.0
    for training in trainings:
        steps, flops, hours = chip_hours(training, topology)
        print(shlex.join(training.command))
        state = "done" if training.metrics() else f"{hours / chips:.2f}"
        lines.append([training.folder.name, f"{steps:,}", f"{flops:.4g}", state, f"{hours:.1f}"])
        total += 0.0 if training.metrics() else hours
    head = ["run", "steps", "FLOPs a step", f"hours on {sizing.TYPES[topology]}", "chip-hours"]
    from recalign.evaluation.report import markdown

    print(f"\n{markdown([head, *lines])}\n")
    print(
        f"{total:.1f} chip-hours in all at {sizing.UTILISATION:.0%} of the peak, evaluation and "
        f"compilation left out; {sizing.TYPES[topology]} ({topology}) has {chips} chips"
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what follows a lone `--` is for `recalign train`."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=MODELS, default="base")
    add("--domains", default=",".join(CATEGORIES), help="default: %(default)s")
    add("--mixtures", default=",".join(MIXTURES), help="default: %(default)s")
    add("--output", type=Path, default=Path("runs"), help="default: %(default)s")
    add("--raw", type=Path, default=Path("raw"), help="McAuley's files; default: %(default)s")
    add("--source", default=SOURCE, help="where they are fetched from; default: %(default)s")
    add("--vocabulary", help="a SentencePiece model, where T5's own cannot be reached")
    add("--slice", choices=sizing.TYPES, help="for --dry_run; default: one that it fits on")
    add("--dry_run", action="store_true", help="tell commands and chip-hours, do nothing")
    options = parser.parse_args(arguments[:at])
    for option, known in (("domains", CATEGORIES), ("mixtures", MIXTURES)):
        names = getattr(options, option).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option}: no {unknown[0]!r}: there are {', '.join(known)}")
        setattr(options, option, names)
    options.flags = tuple(arguments[at + 1 :])
    return options


def main(arguments: Sequence[str]) -> int:
    """Makes the table; the exit code is that of the command that failed, 75 for "again"."""
    options = parse(arguments)
    trainings = [
        Training(options.model, domain, mixture, options.output, options.flags)
        for domain in options.domains
        for mixture in options.mixtures
    ]
    if options.dry_run:
        tell(trainings, options.slice or SLICES[options.model])
        return 0
    try:
        for domain in options.domains:
            prepare(domain, options)
        for training in trainings:
            if not training.metrics():
                call(training.command)
    except Interrupted as error:
        return error.args[0]
    text = table(trainings)
    (options.output / f"{options.model}.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
