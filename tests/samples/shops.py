"""Prepares domains from the command line and registers them."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from recalign import domains
from recalign.cli.prepare import prepare
from recalign.domains.readers import toyshop
from recalign.samples.registry import register_domain


def prepared(name: str, folder, *options: str) -> domains.Domain:
    options = [*options, "--name", name, "--data_dir", str(folder)]
    result = CliRunner().invoke(prepare, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    register_domain(name, str(folder))
    return domains.load(name, folder)


def prepared_with_ratings(name: str, folder: Path, tables: Path) -> domains.Domain:
    """100 users and 60 items with ratings by half stars; `tables` is a folder for the source."""
    raw = toyshop.generate(users=100, items=60)
    stars = np.random.default_rng(0).integers(1, 11, len(raw.interactions)) / 2
    raw.interactions.assign(rating=stars).to_csv(tables / "events.csv", index=False)
    raw.items.to_csv(tables / "items.csv", index=False)
    source = ["--interactions", tables / "events.csv", "--items", tables / "items.csv"]
    columns = ["--catalogue_item_column", "key", "--vocab_size", "500"]
    return prepared(name, folder, "table", *map(str, source), *columns)
