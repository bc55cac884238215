"""`recalign prepare --beam`, with Apache Beam, against the same without."""

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from etils.epath import backend, gpath

from recalign.cli.prepare import prepare
from recalign.domains import records, sharded
from recalign.errors import UserError

pytest.importorskip("apache_beam", reason="the extra `cache` is not installed")


@pytest.fixture
def reviews(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "reviews").mkdir()
    for part in range(3):
        lines = [
            {
                "user_id": f"u{rng.integers(40)}",
                "parent_asin": f"B{rng.integers(150)}",
                "rating": int(rng.integers(1, 6)),
                "timestamp": int(rng.integers(20)),
            }
            for _ in range(150)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "reviews" / f"part-{part}.jsonl").write_text(text)
    return tmp_path / "reviews"


def run(reviews, place, *more):
    words = ["amazon2023", "--reviews", reviews, "--name", "x", "--data_dir", place, *more]
    return CliRunner().invoke(prepare, [*map(str, words)])


def digests(folder):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_every_file_is_the_same(reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "ROWS", 100)
    monkeypatch.setattr(sharded, "_SAMPLE", 4)
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 15)
    same = run(reviews, tmp_path / "memory", "--k_core", 3)
    found = run(reviews, tmp_path / "beam", "--k_core", 3, "--beam")
    assert found.exit_code == 0, (found.output, found.exception)
    assert found.stdout == same.stdout.replace(str(tmp_path / "memory"), str(tmp_path / "beam"))
    written = digests(tmp_path / "beam")
    assert "x/1.0.0/x-train.tfrecord-00002-of-00003" in written
    assert written == digests(tmp_path / "memory")
    again = run(reviews, tmp_path / "memory", "--k_core", 3, "--beam")
    assert "nothing was done" in again.stdout


class Bucket:
    """A local folder under the name gs://, for `epath`."""

    def __init__(self, root):
        self._root = str(root)

    def __getattr__(self, name):
        def call(*arguments, **options):
            places = [str(a).replace("gs:/", self._root, 1) for a in arguments]
            found = getattr(backend.os_backend, name)(*places, **options)
            if name == "glob":
                return [place.replace(self._root, "gs:/", 1) for place in found]
            return found

        return call


def test_sources_and_shards_in_a_bucket(reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Bucket(tmp_path))
    (reviews / "deep").mkdir()
    (reviews / "part-0.jsonl").rename(reviews / "deep" / "part-0.jsonl")
    shared = "--beam_pipeline_options=temp_location=gs://shards"
    for place in ("reviews", "reviews/part-*.jsonl"):
        same = run(tmp_path / place, tmp_path / "memory", "--overwrite")
        found = run(f"gs://{place}", tmp_path / "beam", "--overwrite", "--beam", shared)
        assert found.exit_code == 0, (found.output, found.exception)
        assert same.exit_code == 0, (same.output, same.exception)
        expected, written = digests(tmp_path / "memory"), digests(tmp_path / "beam")
        assert written == expected
    assert (tmp_path / "shards").is_dir()  # it was used, and
    assert not list((tmp_path / "shards").iterdir())


def test_what_is_wrong_with_a_part_is_told_as_ever(reviews, tmp_path):
    (reviews / "part-1.jsonl").write_text('{"user_id": "u"}\n')
    found = run(reviews, tmp_path / "beam", "--beam")
    assert isinstance(found.exception, UserError), found.exception
    assert "part-1.jsonl, line 1: there is no 'parent_asin' or 'asin'" in str(found.exception)
    assert not list((tmp_path / "beam").iterdir())


def test_options_of_beam_alone_are_refused(reviews, tmp_path):
    found = run(reviews, tmp_path, "--beam_pipeline_options", "runner=FlinkRunner")
    assert "--beam_pipeline_options is about --beam" in str(found.exception)
