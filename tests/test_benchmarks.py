"""The benchmarks that a small setting shows in seconds; they assert nothing, and here they end."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from recalign.samples.registry import register_domain
from tests.commands import run

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.fixture
def printed(monkeypatch, capfd):
    """Runs a script in this process, which keeps its cores, and gives what it prints."""
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)

    def call(name, *options):
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capfd.readouterr().out

    return call


def test_an_index_is_built_and_opened_again(printed):
    said = printed("index.py", "--items=2000", "--tokens=5", "--branching=8")
    assert "2000 items of 5 tokens" in said
    assert re.search(r"opened: fingerprint and checksum in \d+\.\d s", said)


def test_a_process_of_two_makes_half_of_a_batch(printed):
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")
    short = ("--inputs=128", "--targets=32", "--batch_size=8", "--batches=4")
    said = printed("input_pipeline.py", "--kinds", "retrieval", "--processes", 1, 2, *short)
    whole, half = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) tokens\n", said))
    assert 0.35 * whole < half < 0.65 * whole
