"""Event files, read back as they were written."""

import pytest
from tensorboardX import SummaryWriter

from recalign.runs.report.events import read_scalars


def write_events(path, values, tag="train/loss", **options):
    with SummaryWriter(str(path), **options) as writer:
        for step, value in values.items():
            writer.add_scalar(tag, value, step)


def test_what_is_written_is_read(tmp_path):
    write_events(tmp_path, {1: 0.5, 20: 0.25})
    assert read_scalars(tmp_path) == {"train/loss": {1: 0.5, 20: 0.25}}
    assert read_scalars(tmp_path / "nowhere") == {}


def test_what_a_later_call_makes_again_is_forgotten(tmp_path):
    write_events(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0}, filename_suffix=".1")
    [first] = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.1")
    write_events(tmp_path, {20: 4.0}, purge_step=11)
    assert read_scalars(tmp_path) == {"train/loss": {10: 1.0, 20: 4.0}}


def test_what_is_no_number_is_left_out(tmp_path):
    write_events(tmp_path, {1: float("nan"), 2: float("inf"), 3: 0.5})
    assert read_scalars(tmp_path) == {"train/loss": {3: 0.5}}


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_file_cut_anywhere_gives_what_was_whole(tmp_path, cut):
    write_events(tmp_path, {1: 0.5, 2: 0.25})
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    found = read_scalars(tmp_path).get("train/loss", {})
    assert found in ({}, {1: 0.5})


def test_nonsense_is_passed_over(tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\x05" + bytes(11) + b"\xff" * 40)
    (tmp_path / "events.out.tfevents.2").write_bytes(b"nonsense" * 100)
    write_events(tmp_path, {1: 0.5})
    assert read_scalars(tmp_path) == {"train/loss": {1: 0.5}}
