"""Real Amazon catalogues under T5's own vocabulary."""

import numpy as np
import pytest
import seqio
from click.testing import CliRunner

from recalign import prompts
from recalign.cli.prepare import prepare
from recalign.samples import inspection
from recalign.samples.items import domain_vocabulary, item_texts
from recalign.samples.registry import register_domain
from tests.samples.reading import fits
from tests.samples.shops import prepared

LENGTHS = {"inputs": 512, "targets": 128}


@pytest.fixture(scope="module", params=["beauty", "toys"])
def domain(request, shared, tmp_path_factory):
    """The name and data folder of a real domain, registered as real_NAME."""
    files = shared / "data/amazon-2014" / request.param
    name, folder = f"real_{request.param}", tmp_path_factory.mktemp("data")
    options = [f"--inter={files / request.param}.inter", f"--item={files / request.param}.item"]
    vocabulary = f"--vocabulary={shared / 'vocab/t5/spiece.model'}"
    result = CliRunner().invoke(
        prepare,
        ["recbole", *options, vocabulary, f"--name={name}", f"--data_dir={folder}"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    register_domain(name, str(folder))
    return name, str(folder)


@pytest.mark.parametrize("form", prompts.ITEM_FORMS)
def test_every_target_stands_for_one_item(domain, form):
    texts = item_texts(*domain, target_form=form)
    written = {tuple(tokens) for tokens in texts.target_tokens}
    assert len(written) == len(texts.target)
    vocabulary = domain_vocabulary(*domain)
    decoded = [vocabulary.decode(tokens.tolist()) for tokens in texts.target_tokens]
    # T5 has no piece for some characters of titles, but what is left still tells items apart.
    assert len(set(decoded)) == len(decoded)
    if form == "id":
        assert decoded == texts.target.tolist()


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "mim", "mlm", "bpr"])
def test_no_question_is_cut_and_few_histories_are(domain, kind):
    task = seqio.TaskRegistry.get(f"{domain[0]}_{kind}")
    vocabulary = task.output_features["inputs"].vocabulary
    templates = getattr(prompts, kind.upper())
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False, seed=0)
    lengths = []
    for example in dataset.take(1500).as_numpy_iterator():
        assert example["inputs"][-1] == example["targets"][-1] == vocabulary.eos_id
        text = vocabulary.decode(example["inputs"].tolist())
        assert any(fits(template, text) for template in templates)
        lengths.append((len(example["inputs"]), len(example["targets"])))
    longest = np.max(lengths, axis=0)
    assert longest[0] <= LENGTHS["inputs"]
    assert longest[1] <= LENGTHS["targets"]
    whole = inspection.measure(task, LENGTHS, "train")["inputs"]
    # The hundred candidates of a ranking leave room for few items.
    assert whole.shortened < (0.35 if kind == "ranking" else 0.05)


def test_office_has_ratings_that_read_as_stars(shared, tmp_path):
    files, folder = shared / "data/amazon-2018-rated/office/office", str(tmp_path)
    options = [f"--inter={files}.inter", f"--item={files}.item"]
    vocabulary = f"--vocabulary={shared / 'vocab/t5/spiece.model'}"
    office = prepared("real_office", folder, "recbole", *options, vocabulary)
    sizes = {name: len(office.rating_split(name)) for name in ("train", "validation", "test")}
    owners = np.repeat(np.arange(office.num_users), np.diff(office.train().offsets))
    rated = len({*zip(owners.tolist(), office.train().events.tolist(), strict=True)})
    assert sizes["validation"] == sizes["test"] == rated // 10
    assert sum(sizes.values()) == rated
    for name, size in sizes.items():
        task = seqio.TaskRegistry.get("real_office_rating")
        decode = task.output_features["targets"].vocabulary.decode
        samples = task.get_dataset(LENGTHS, name, shuffle=False, seed=0).as_numpy_iterator()
        count = 0
        for count, sample in enumerate(samples, start=1):  # noqa: B007
            assert decode(sample["targets"].tolist()) == f"{sample['rating']:g}"
            assert len(sample["inputs"]) <= LENGTHS["inputs"]
        assert count == size
