"""A folder belongs to one configuration and one process at a time; what stops a run is said."""

import json
import shutil

import pytest

from recalign.engine.weights.manifest import write_manifest
from tests.survival.running import assert_same_states, steps


def copy(whole, folder):
    shutil.copytree(whole, folder)
    return folder


def test_another_configuration_is_refused_unless_accepted_and_more_steps_are_fine(
    recipe, whole, tmp_path
):
    folder = copy(whole, tmp_path / "run")
    before = (folder / "config.gin").read_text()
    said = recipe.but("--gin.DROPOUT_RATE=0.2").finish(folder, code=2)
    assert "  - DROPOUT_RATE = 0.1\n  + DROPOUT_RATE = 0.2\n" in said
    assert said.count("\n  + ") == 1
    assert "--accept_changes" in said
    assert (folder / "config.gin").read_text() == before
    more = recipe.but("--gin.TRAIN_STEPS=26")
    assert "resumed at step 24" in more.finish(folder)
    assert steps(folder)[-1] == 26
    more.but("--gin.DROPOUT_RATE=0.2", "--accept_changes").finish(folder)
    assert "DROPOUT_RATE = 0.2" in (folder / "config.gin").read_text()


def test_one_process_at_a_time_and_a_dead_one_is_none(recipe, whole, tmp_path):
    first = recipe.start(tmp_path / "run")
    first.wait_until_trains()
    said = recipe.finish(tmp_path / "run", code=2)
    assert "another process trains here (process " in said
    assert first.kill()
    recipe.finish(tmp_path / "run")
    assert_same_states(tmp_path / "run", whole, 24)


@pytest.mark.parametrize("what", ["vocabulary", "domain toyshop"])
def test_samples_of_another_domain_or_vocabulary_are_refused(recipe, tokens, whole, tmp_path, what):
    other = copy(tokens, tmp_path / "tokens")
    metadata = json.loads((other / "metadata.json").read_text())
    assert what in metadata["provenance"]
    metadata["provenance"][what] = "0123456789abcdef"
    (other / "metadata.json").write_text(json.dumps(metadata))
    write_manifest(other, also=("metadata.json", "spiece.model"))
    elsewhere = recipe.but(f"--gin.TOKENS_DIR={other}", "--gin.TRAIN_STEPS=26", "--accept_changes")
    said = elsewhere.finish(copy(whole, tmp_path / "run"), code=2)
    assert f"is of another {what}: " in said
    assert "where this run has 0123456789abcdef" in said


def test_a_loss_that_is_not_finite_is_said_and_the_examples_are_written(recipe, tmp_path):
    said = recipe.but("--gin.LEARNING_RATE=1e30", "--gin.WARMUP_STEPS=1").finish(
        tmp_path / "run", code=2
    )
    assert "the loss or gradient is not finite at step " in said
    [dump] = (tmp_path / "run" / "nonfinite").iterdir()
    assert str(dump) in said
    assert dump.read_text().count("inputs: ") == dump.read_text().count("targets: ") > 0
    assert "Traceback" not in said
