"""A bucket that is not there, or not ours, is one message and exit code 2."""

import pytest

from recalign import cli
from tests.buckets import refusing

RUN = "gs://bucket/run"
COMMANDS = {
    "inspect": ("inspect", RUN),
    "report": ("report", RUN, "--output=page.html"),
    "eval": ("eval", f"--model_dir={RUN}"),
    "infer": ("infer", f"--model_dir={RUN}", "--output=answers.jsonl"),
    "recommend": ("recommend", f"--model_dir={RUN}", "--history=toy-01"),
    "convert": ("convert", RUN, "converted", "--to=hf"),
}


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Calls a command that is to be refused; gives what it says."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["recalign", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert not out
        [line] = err.splitlines()
        return line

    return call


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden: "), (401, "HttpError: ")])
def test_a_bucket_that_is_not_ours(command, status, reason, told, bucket):
    with bucket.failing(refusing(10**6, status)):
        said = told(*COMMANDS[command])
    assert reason in said
    assert "gcloud auth application-default login" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_no_bucket(command, told, bucket):
    said = told(*(argument.replace(RUN, "gs://none/run") for argument in COMMANDS[command]))
    assert "gs://none/run" in said
