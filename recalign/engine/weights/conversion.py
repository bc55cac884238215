"""Parameters from one format to another, and into a model.

Formats: T5X's ('t5x'), Hugging Face's ('hf') and Orbax ('orbax'), local or in a bucket. Which one a
folder is in is seen from the folder; the architecture is seen from the shapes.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from flax import traverse_util

from recalign.engine.network.config import T5Config, check_shapes, parameter_shapes, recognise
from recalign.engine.weights import hf, manifest, orbax, t5x, tokenizer
from recalign.engine.weights.growth import HEAD, PAD_TOKEN, TABLE, NewTokens, check_grows, grow
from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError
from recalign.files import make_folder, resolve
from recalign.progress import Progress

log = logging.getLogger(__name__)

FORMATS = {"t5x": t5x, "hf": hf, "orbax": orbax}

# T5's vocabulary has 32,000 pieces and 100 sentinels. The public models have rows beyond them, so
# that the table divides well; some tools cut them off again.
REAL_ROWS, PADDED_ROWS = 32_100, 32_128


@dataclasses.dataclass(frozen=True)
class Weights:
    """A checkpoint that has been opened.

    Attributes:
        path: its folder.
        tensors: its parameters by name, not yet read.
        config: the fields of `T5Config` that it determines.
    """

    path: str
    tensors: Flat
    config: dict

    @property
    def has_vocabulary(self) -> bool:
        """Whether a vocabulary lies beside the parameters, as in a folder of transformers'."""
        return any((resolve(self.path) / name).exists() for name in tokenizer.FILES)


def open_weights(path: str) -> Weights:
    """Opens a checkpoint of any format.

    Args:
        path: a checkpoint, or a folder of them (T5X's ``checkpoint_N``, the steps of a run, the
            folder of a run), of which the newest that is whole is taken.

    Raises:
        UserError: there is none, or not one of a T5, or it is damaged. Reading a tensor raises it
            too.
    """
    folder = _find_checkpoint(resolve(path))
    for module in FORMATS.values():
        if module.is_checkpoint(folder):
            with _explain_unreadable(folder):
                tensors, known = module.read(folder)
                shapes = {name: tensor.shape for name, tensor in tensors.items()}
                known = recognise(shapes, str(folder)) | known
            return Weights(
                str(folder), {n: _explain_reading(folder, t) for n, t in tensors.items()}, known
            )
    if (folder / "snapshots").is_dir():
        raise UserError(f"{path} is a cache of Hugging Face's: give a folder in its snapshots")
    raise UserError(
        f"{path} is not a checkpoint: expected T5X's file 'checkpoint', Hugging Face's "
        f"'config.json' or Orbax's '{orbax.METADATA}' in it"
    )


def _find_checkpoint(path: epath.Path) -> epath.Path:
    """`path`, or the newest whole checkpoint in it where it is a folder of checkpoints."""
    if not path.exists():
        raise UserError(f"there is no checkpoint at {path}; none is downloaded by its name")
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, but a checkpoint is a folder: give the one that it lies in"
        )
    if _is_checkpoint(path):
        if damage := _find_damage(path):
            raise UserError(f"{path} is damaged: {damage}")
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = {
        int(match[1]): child
        for child in folder.iterdir()
        if (match := orbax.STEP.fullmatch(child.name)) and _is_checkpoint(child)
    }
    for _, child in sorted(steps.items(), reverse=True):
        if (damage := _find_damage(child)) is None:
            return child
        log.warning("%s is damaged, trying the one before: %s", child, damage)
    if steps:
        raise UserError(f"every checkpoint in {folder} is damaged (steps {sorted(steps)})")
    return path


def _is_checkpoint(path: epath.Path) -> bool:
    return any(module.is_checkpoint(path) for module in FORMATS.values())


def _find_damage(path: epath.Path) -> str | None:
    """What is wrong with a checkpoint of a run; others do not tell."""
    return manifest.find_damage(path) if (path / manifest.MANIFEST).exists() else None


@contextlib.contextmanager
def _explain_unreadable(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever the readers of damaged files may raise
        what = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{folder} cannot be read ({type(error).__name__}: {what}): is it damaged, or of "
            "another version?"
        ) from error


def _explain_reading(folder: epath.Path, tensor: Tensor) -> Tensor:
    """The tensor, of which is told when it cannot be read."""

    def read() -> np.ndarray:
        with _explain_unreadable(folder):
            array = tensor.read()
        if array.shape != tensor.shape:
            raise UserError(f"{folder} is damaged: {array.shape} where {tensor.shape} was said")
        return array

    return dataclasses.replace(tensor, read=read)


def load_params(
    path: str, config: T5Config | None = None, new: NewTokens | None = None
) -> tuple[dict, dict]:
    """Reads the parameters of a checkpoint of any format.

    They are those that `open_weights` opens, and for a model, if there is one, as `for_model`.

    Returns:
        The fields of `T5Config` that the checkpoint determines, and the parameter tree, numpy
        float32.

    Raises:
        UserError: no checkpoint, or one of another architecture; the first parameter that differs
            is named, with both shapes. Or a parameter is not finite.
    """
    weights = open_weights(path)
    if config is not None:
        weights = for_model(weights, config, new)
    flat = {}
    for name, tensor in weights.tensors.items():
        flat[name] = tensor.read().astype(np.float32, copy=False)
        if not np.isfinite(flat[name]).all():
            raise UserError(f"{weights.path}: {name} has values that are NaN or infinite")
    return weights.config, traverse_util.unflatten_dict(flat, sep="/")


def for_model(weights: Weights, config: T5Config, new: NewTokens | None = None) -> Weights:
    """The weights as `config` needs them: checked, and with its number of vocabulary rows.

    Args:
        weights: what was opened.
        config: of the model.
        new: tokens that the vocabulary was extended by; a table of fewer rows than the model's
            grows by them.
    """
    if new is not None:
        check_grows(new, config.vocab_size)
        if weights.config["vocab_size"] < config.vocab_size:
            weights = with_new_tokens(weights, new, config.vocab_size)
    weights = with_rows(weights, config.vocab_size)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    check_shapes(shapes, parameter_shapes(config), weights.path)
    has, wants = weights.config["mlp_activations"], config.mlp_activations
    if has != wants:
        raise UserError(
            f"{weights.path} does not fit the model: mlp_activations are {has} in the checkpoint, "
            f"{wants} in the model"
        )
    return weights


def with_new_tokens(weights: Weights, new: NewTokens, rows: int) -> Weights:
    """The weights with a table of so many rows, of which some are for new tokens, see `grow`."""
    tensors = grow(weights.path, weights.tensors, new, rows)
    return Weights(weights.path, tensors, weights.config | {"vocab_size": rows})


def with_rows(weights: Weights, rows: int) -> Weights:
    """Cuts off or adds the padding rows of T5's vocabulary; any other difference is left alone.

    The added rows copy those of the padding token. Like them, it is never a target, so that
    training has left it next to no probability; rows of zeros would get a logit of 0, which in
    FLAN-T5 is among the highest.
    """
    has = weights.config["vocab_size"]
    if has == rows or {has, rows} != {REAL_ROWS, PADDED_ROWS}:
        return weights
    what = "cut off" if rows < has else "added as copies of the padding token's"
    log.warning("%s: %d vocabulary rows %s", weights.path, abs(has - rows), what)
    tensors = dict(weights.tensors)
    for name, axis in ((TABLE, 0), (HEAD, 1)):
        if name in tensors:
            tensors[name] = _resize(tensors[name], rows, axis)
    return Weights(weights.path, tensors, weights.config | {"vocab_size": rows})


def _resize(tensor: Tensor, rows: int, axis: int) -> Tensor:
    shape = list(tensor.shape)
    has, shape[axis] = shape[axis], rows
    index = np.where(np.arange(rows) < has, np.arange(rows), PAD_TOKEN)
    return dataclasses.replace(
        tensor, shape=tuple(shape), read=lambda: np.take(tensor.read(), index, axis=axis)
    )


def convert(
    source: str,
    destination: str,
    to: str,
    vocab_size: int | None = None,
    find_vocabulary: Callable[[Weights], bytes | None] = lambda weights: None,
    new: NewTokens | None = None,
) -> Weights:
    """Writes a checkpoint again in another format, bit by bit the same values.

    Args:
        source: see `open_weights`.
        destination: a folder that is empty or does not exist.
        to: 'hf', 't5x' or 'orbax'.
        vocab_size: 32,100 or 32,128, to cut off or add padding rows; None to leave them. With new
            tokens, any number that has room for them.
        new: tokens that its vocabulary was extended by, for which rows are made.
        find_vocabulary: gives the vocabulary of what was opened, see `write_weights`.

    Returns:
        What was written.
    """
    _check_empty(destination)
    weights = open_weights(source)
    if new is not None:
        weights = with_new_tokens(weights, new, vocab_size)
    elif vocab_size is not None:
        weights = with_rows(weights, vocab_size)
        has = weights.config["vocab_size"]
        if has != vocab_size:
            raise UserError(
                f"{weights.path} has {has:,} vocabulary rows: only {REAL_ROWS:,} and "
                f"{PADDED_ROWS:,} can be made of each other"
            )
    total = sum(tensor.bytes for tensor in weights.tensors.values())
    with Progress("converting", total, "B") as progress:
        counted = {name: t.count_reads(progress.update) for name, t in weights.tensors.items()}
        read = dataclasses.replace(weights, tensors=counted)
        write_weights(read, destination, to, find_vocabulary(weights))
    return weights


def write_weights(
    weights: Weights, destination: str, to: str, vocabulary: bytes | None = None
) -> None:
    """Writes parameters as a checkpoint.

    Args:
        weights: what to write.
        destination: a folder that is empty or does not exist.
        to: 'hf', 't5x' or 'orbax'.
        vocabulary: a SentencePiece model, which a folder of transformers' has beside the
            parameters; without it, what lies beside them in such a folder already is kept.

    Raises:
        UserError: the format is not known or cannot hold such a network, the folder is not empty,
            or the vocabulary too large for the parameters.
    """
    if to not in FORMATS:
        raise UserError(f"the format {to!r} is not known: expected one of {', '.join(FORMATS)}")
    folder = _check_empty(destination)
    if to != "hf":
        with _empty_unless_whole(folder):
            FORMATS[to].write(folder, weights.tensors, weights.config)
        return
    hf.check_writable(weights.config)
    if vocabulary is not None:
        tokenizer.check_fits(vocabulary, weights.config["vocab_size"])
    source = resolve(weights.path) if weights.path else None
    source = source if source and hf.is_checkpoint(source) else None
    kept = hf.read_descriptions(source) if source else hf.NOTHING_KEPT
    with _empty_unless_whole(folder):
        if vocabulary is not None:
            tokenizer.write(folder, vocabulary)
        elif source:
            tokenizer.copy(source, folder)
        hf.write(folder, weights.tensors, weights.config, kept)


@contextlib.contextmanager
def _empty_unless_whole(folder: epath.Path) -> Iterator[None]:
    """Makes a folder, empty as yet, which the block fills; where that fails it is empty again."""
    make_folder(folder)
    try:
        yield
    except BaseException:
        for path in folder.iterdir() if folder.exists() else []:
            path.rmtree() if path.is_dir() else path.unlink()
        raise


def _check_empty(destination: str) -> epath.Path:
    """The folder of that name; raises a UserError if something is in it."""
    folder = resolve(destination)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{destination} is there already and not empty: name another folder")
    return folder
