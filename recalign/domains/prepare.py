"""From a reader's result to a finished folder: what every `recalign prepare` command does."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

import recalign
from recalign.domains import (
    assemble,
    beam,
    candidates,
    catalogue,
    codes,
    kcore,
    sharded,
    statistics,
    storage,
    vectors,
    vocabulary,
)
from recalign.domains.domain import Domain
from recalign.domains.raw import RawDomain, drop_duplicates
from recalign.domains.readers import opening
from recalign.domains.scratch import Scratch
from recalign.domains.source import ShardedSource
from recalign.domains.values import NO_TEXT
from recalign.errors import UserError

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be prepared.

    Attributes:
      name: the domain's name.
      command: the reader's name, for `statistics.json`.
      read: returns the source in its own terms.
      shard: returns the source, to be read part by part; None where `beam` is.
      beam: options of the pipelines that prepare it, see `beam.open_stages`; None for memory.
      sources: the files that `read` reads, by role.
      reader_options: options of the reader, for `statistics.json`.
      drop_duplicates: whether repeated interactions are left out, see `raw.drop_duplicates`.
      k_core: see `kcore.k_core`; None for no filter.
      seed: of the item indices.
      vocabulary: a SentencePiece model to copy, or None.
      vocab_size: the size of a vocabulary to train, or None.
      item_tokens: whether the vocabulary, T5's or the one to copy, is extended by what ids need.
      item_ids: how items are named: "random", by a number, or one of `codes.METHODS`.
      id_vectors: of what codes are made, see `vectors.item_vectors`; None for 'both'. A folder is a
        checkpoint whose encoder reads the items' texts.
      encode: gives a vector for each text, float[n, d], of a checkpoint and n texts.
      id_codes: how many levels of how many codes; None for the usual ones.
      data_dir: where prepared domains live, as for `storage.data_dir`.
      overwrite: whether a domain of the same name may be replaced.
    """

    name: str
    command: str
    read: Callable[[], RawDomain]
    shard: Callable[[], ShardedSource] | None = None
    beam: str | None = None
    sources: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    reader_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    drop_duplicates: bool = False
    k_core: int | None = None
    seed: int = 0
    vocabulary: str | None = None
    vocab_size: int | None = None
    item_tokens: bool = False
    item_ids: str = "random"
    id_vectors: str | None = None
    encode: Callable[[str, Sequence[str]], np.ndarray] | None = None
    id_codes: tuple[int, int] | None = None
    data_dir: Path | None = None
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the domain will be."""
        return storage.data_dir(self.data_dir) / self.name


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The prepared domain's folder and statistics, warnings, and whether it was prepared now."""

    folder: Path
    statistics: dict
    warnings: list[str]
    fresh: bool


def prepare(
    request: Request,
    write_records: Callable[[Domain, Path], None],
    stage: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Prepares a domain, or finds it prepared with the same options from the same files.

    Args:
      request: what to prepare.
      write_records: writes the TFDS build of a domain into its folder (`records.write`).
      stage: told what is being done.

    Raises:
      UserError: bad input, or a different domain of that name is there and may not be replaced.
    """
    storage.check_name(request.name)
    storage.check_local(request.folder)
    if request.vocabulary and request.vocab_size:
        raise UserError("--vocabulary copies a vocabulary and --vocab_size trains one: give one")
    _check_ids(request)
    stage("checking the sources")
    identity = _identity(request)
    if _already_there(request, identity):
        found = storage.statistics_of(request.name, request.data_dir)
        return Outcome(request.folder, found, [], fresh=False)
    # Whether the folder can be written is found out before the work, not after it.
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(storage.replacing(request.folder, request.overwrite))
        if request.beam is None:
            domain, raw = _assemble(request, stage)
        else:
            stage("reading and ordering")
            scratch, run = stack.enter_context(beam.open_stages(request.beam, folder))
            domain, raw = _assemble_shards(request, scratch, folder, run)
        if request.item_ids != RANDOM:
            stage("making ids")
            domain = dataclasses.replace(domain, codes=_make_codes(request, domain))
        stage("building the vocabulary")
        pieces = _write_vocabulary(request, domain, folder)
        found = _statistics(request, domain, raw, identity, pieces)
        domain = dataclasses.replace(domain, statistics=found)
        stage("writing records")
        storage.write(domain, folder)
        write_records(dataclasses.replace(domain, path=folder), folder)
        found = storage.read_statistics(folder)
        warnings = [*raw.warnings, *_warn(dataclasses.replace(domain, statistics=found), raw)]
    return Outcome(request.folder, found, warnings, fresh=True)


def count_stages(request: Request) -> int:
    """How many stages `prepare` tells of."""
    read = 1 if request.beam is not None else 2 + bool(request.k_core)
    return read + (request.item_ids != RANDOM) + len(("sources", "vocabulary", "records"))


def _assemble(request: Request, stage: Callable[[str], None]) -> tuple[Domain, RawDomain]:
    stage("reading")
    raw = request.read()
    if request.drop_duplicates:
        drop_duplicates(raw)
    if request.k_core:
        stage("filtering")
        raw = kcore.k_core(raw, request.k_core)
    stage("ordering")
    domain = assemble.assemble(raw, request.name, request.seed)
    raw.interactions = raw.items = None  # the domain has them now
    return dataclasses.replace(domain, stored_parts=domain.rating_parts), raw


def _assemble_shards(
    request: Request, scratch: Scratch, folder: Path, run: sharded.Stages
) -> tuple[Domain, RawDomain]:
    domain, raw = sharded.build(
        request.shard(),
        request.name,
        request.seed,
        request.k_core,
        request.drop_duplicates,
        scratch,
        run,
    )
    if domain.has_ratings:
        with tempfile.TemporaryDirectory(dir=folder) as local:  # memory is mapped there
            domain.store_rating_parts(Path(local))
    return domain, raw


def _check_ids(request: Request) -> None:
    """Refuses options on ids that have no effect, and ids that no vocabulary can write."""
    if request.item_tokens and request.vocab_size:
        raise UserError(
            "--item_tokens extends a vocabulary, but one that --vocab_size trains has a piece for "
            "each id already: leave it out"
        )
    if request.beam is not None and request.item_ids != RANDOM:
        raise UserError(
            f"--item_ids {request.item_ids} is made of all events at once, which --beam never "
            "holds: leave one of them out"
        )
    if request.item_ids == RANDOM:
        if request.id_vectors or request.id_codes:
            idle = "--id_vectors" if request.id_vectors else "--id_codes"
            raise UserError(f"{idle} is about ids that are codes: --item_ids pq or rkmeans")
        return
    if not _is_checkpoint(_id_vectors(request)):
        vectors.check_source("--id_vectors", _id_vectors(request))
    if not request.item_tokens and not request.vocab_size:
        raise UserError(
            f"--item_ids {request.item_ids} names items in tokens of their own: extend T5's "
            "vocabulary by them with --item_tokens, or train one with --vocab_size N"
        )


def _id_vectors(request: Request) -> str:
    return request.id_vectors or vectors.BOTH


def _is_checkpoint(source: str) -> bool:
    return Path(source).is_dir()


def _id_codes(request: Request) -> tuple[int, int]:
    return request.id_codes or (codes.LEVELS, codes.CODES)


def _make_codes(request: Request, domain: Domain) -> codes.Codes:
    source = _id_vectors(request)
    if _is_checkpoint(source):
        texts = domain.items[list(catalogue.TEXT_COLUMNS)].agg(" ".join, axis=1)
        rows = vectors.principal(request.encode(source, texts.tolist()), codes.SIZE)
    else:
        rows = codes.known_vectors(source, domain.items, *domain.train())
    return codes.make(request.item_ids, rows, *_id_codes(request), request.seed)


def _warn(domain: Domain, raw: RawDomain) -> Iterator[str]:
    """Sentences on what the domain has too little or too much of."""
    repeated = raw.counts.get("duplicate_interactions_kept")
    if repeated and domain.has_times:
        yield (
            f"{repeated:,} interactions repeat an earlier one of the same user, item and time; "
            "they are kept as events of their own (--drop_duplicates leaves them out)"
        )
    if undated := raw.counts.get("users_in_file_order"):
        yield (
            f"{undated:,} of {domain.num_users:,} users have an event without a time, so their "
            "events keep file order"
        )
    times, users, longest = set(), set(), 0
    for piece in domain.pieces():
        times |= _find_ends(piece)
        users |= NO_TEXT.intersection(piece.user_keys)
        longest = max(longest, np.diff(piece.train().offsets).max())
    for what, absent in (("a user", users), ("an item", NO_TEXT.intersection(domain.items["key"]))):
        if absent:
            yield (
                f"there is {what} {min(absent)!r}, as programs write what is missing: leave those "
                "rows out, unless it is an id like others"
            )
    if len(times) == 1 and domain.num_events > 1:
        yield (
            f"all {domain.num_events:,} events have the same time, so file order decides; has a "
            "spreadsheet rounded the column?"
        )
    if longest < 2:
        yield (
            "no user has two train events, one to ask for and one before it (of three events or "
            f"more, the last two are held out): {domain.name}_retrieval, ranking, bpr, mim and mlm "
            "have no train samples"
        )
    elif all(map(_all_have_all, domain.pieces())):
        yield f"every user has had every item, so {domain.name}_bpr has no train samples"
    count = domain.statistics["candidates"]["test"]["candidates"]
    if count <= candidates.NEGATIVES:
        yield (
            f"the catalogue has no {candidates.NEGATIVES} items that every user left alone, so "
            f"each candidate list has only {count}; its metrics are named cand{count}"
        )
    if domain.has_ratings and not domain.has_rating_task:
        yield (
            f"there are too few ratings to train on, to validate on and to test on, so there is no "
            f"{domain.name}_rating"
        )


def _find_ends(domain: Domain) -> set[float]:
    """The first and the last time; none where none is known."""
    if domain.timestamps is None:
        return set()
    given = domain.timestamps[~np.isnan(domain.timestamps)]
    return {given.min(), given.max()} if len(given) else set()


def _all_have_all(domain: Domain) -> bool:
    """Whether nobody with two train events or more has an item left that is not among them."""
    offsets, events = domain.train()
    if np.diff(offsets).max() < domain.num_items:
        return not (np.diff(offsets) >= 2).any()
    distinct = candidates.count_distinct(offsets, events, domain.num_items)
    return bool((distinct[np.diff(offsets) >= 2] == domain.num_items).all())


def _identity(request: Request) -> dict:
    """What decides a domain's content; two domains with the same are the same."""
    options = {
        "command": request.command,
        **request.reader_options,
        **({"drop_duplicates": True} if request.drop_duplicates else {}),
        "k_core": request.k_core,
        "seed": request.seed,
        "vocab_size": request.vocab_size,
        **({"item_tokens": True} if request.item_tokens else {}),
    }
    files = dict(request.sources)
    if request.vocabulary:
        files["vocabulary"] = request.vocabulary
    if request.item_ids != RANDOM:
        options |= {"item_ids": request.item_ids, "id_codes": [*_id_codes(request)]}
        if (source := _id_vectors(request)) in vectors.SOURCES:
            options["id_vectors"] = source
        elif _is_checkpoint(source):
            parts = sorted(path for path in Path(source).rglob("*") if path.is_file())
            files |= {f"id_vectors/{part.relative_to(source)}": part for part in parts}
        else:
            files["id_vectors"] = source
    return {
        "recalign_version": recalign.__version__,
        "format": storage.FORMAT,
        "options": options,
        "sources": {
            role: {"file": Path(path).name, "sha256": opening.hash_source(path)}
            for role, path in files.items()
        },
    }


def _already_there(request: Request, identity: dict) -> bool:
    """Whether the same domain is there; an error if another one is, and may not be replaced."""
    if not request.folder.exists():
        return False
    there = storage.read_statistics(request.folder)
    if there is None:
        raise UserError(
            f"{request.folder} exists and is not a prepared domain; remove it, or choose another "
            "--name or --data_dir"
        )
    if _hashes(there) == _hashes(identity) and not request.overwrite:
        return True
    if not request.overwrite:
        raise UserError(
            f"{request.folder} holds a domain {request.name!r} from "
            f"{_difference(there, identity)}; pass --overwrite to replace it, or choose another "
            "--name"
        )
    return False


def _hashes(identity: dict) -> dict:
    """An identity without the names of the files: a renamed file is the same file."""
    sources = {role: file["sha256"] for role, file in identity["sources"].items()}
    return {
        "version": (identity["recalign_version"], identity.get("format")),
        "options": identity["options"],
        "sources": sources,
    }


def _difference(there: dict, wanted: dict) -> str:
    old, new = _hashes(there), _hashes(wanted)
    if old["sources"] != new["sources"]:
        return "other source files"
    if old["options"] != new["options"]:
        keys = [
            key
            for key in old["options"] | new["options"]
            if old["options"].get(key) != new["options"].get(key)
        ]
        return f"other options ({', '.join(keys)})"
    return f"recalign {old['version'][0]}, which wrote other files"


def _write_vocabulary(request: Request, domain: Domain, folder: Path) -> int | None:
    """Its number of pieces; None where the public T5 vocabulary is meant."""
    if request.vocab_size:
        return vocabulary.train(domain.items, domain.id_pieces, request.vocab_size, folder)
    if request.item_tokens:
        return vocabulary.copy(request.vocabulary or vocabulary.T5, folder, domain.id_pieces)
    if request.vocabulary:
        return vocabulary.copy(request.vocabulary, folder)
    return None


def _statistics(
    request: Request, domain: Domain, raw: RawDomain, identity: dict, pieces: int | None
) -> dict:
    ids = {}
    if domain.codes is not None:
        made = {"method": request.item_ids, "vectors": _id_vectors(request)}
        ids = {"item_ids": made | domain.codes.describe()}
    return {
        "name": domain.name,
        **statistics.describe(domain),
        **ids,
        "vocabulary_pieces": pieces,
        "cleaning": raw.counts,
        "columns": raw.columns,
        **identity,
    }
