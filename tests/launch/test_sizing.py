"""launch/sizing.py reads what a dry run prints."""

import importlib.util
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from recalign.engine.training.dry_run import GIB, SearchSizes, Sizes


@pytest.fixture
def sizing():
    path = Path(__file__).parents[2] / "launch/sizing.py"
    spec = importlib.util.spec_from_file_location("sizing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(monkeypatch, **answer):
    done = SimpleNamespace(**{"returncode": 0, "stdout": "", "stderr": "", **answer})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


@pytest.mark.parametrize(("temporaries", "fits"), [(6, "yes"), (15, "**no**")])
def test_a_dry_run_becomes_a_line(sizing, monkeypatch, temporaries, fits):
    step = Sizes(
        devices="8 x TPU v5 lite",
        mesh={"data": 8, "model": 1},
        parameters=247_577_856,
        parameter_bytes=GIB,
        optimizer_bytes=GIB // 2,
        batch_bytes=0,
        temporary_bytes=temporaries * GIB,
        model_flops=8 * 197e12,  # a second for eight chips at their peak
        device_flops=1.0,
        hlo="",
    )
    search = SearchSizes(
        histories=64,
        source=512,
        num_beams=20,
        items=10_000,
        parameter_bytes=GIB,
        index_bytes=0,
        temporary_bytes=GIB // 4,
        model_flops=7.5e12,
        device_flops=1.0,
        hlo="",
    )
    answers(monkeypatch, stdout=f"{step}\n{search}")
    line = sizing.cells(sizing.Row("flan_t5_base", "v5e:2x4"))
    assert line[1] == "v5litepod-8 (v5e:2x4)"
    sizes = ["1.00", "0.50", f"{1.5 + temporaries:.2f}"]
    assert line[4:] == [*sizes, "16 GiB", fits, "2.50 s", "1.25", "7.5"]
    assert len(line) == len(sizing.HEADER.split(" | "))


def test_a_step_that_the_compiler_refuses_for_its_size_does_not_fit(sizing, monkeypatch):
    answers(monkeypatch, returncode=1, stderr="RESOURCE_EXHAUSTED: Ran out of memory in hbm")
    line = sizing.cells(sizing.Row("flan_t5_xl", "v5e:2x2"))
    assert "**no**" in line
    assert len(line) == len(sizing.HEADER.split(" | "))


def test_any_other_failure_is_told(sizing, monkeypatch):
    answers(monkeypatch, returncode=2, stderr="recalign: no")
    with pytest.raises(SystemExit, match="recalign: no"):
        sizing.cells(sizing.Row("flan_t5_xl", "v5e:2x2"))
