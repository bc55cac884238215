"""MovieLens 100K and 1M as GroupLens publishes them, and RecBole's copy of the former.

Formats: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt and
ml-1m-README.txt. The files are looked for in a folder, or in a zip archive (the `.zip` of
GroupLens; RecBole's wheel), which is read in place: nothing is ever extracted.
"""

import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from recalign.domains import catalogue, raw
from recalign.domains.readers import recbole, textfiles
from recalign.errors import UserError

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
GENRE_JOINT = ", "
EVENTS = ("user_id", "item_id", "rating", "timestamp")

_LARGEST = 1 << 30  # bytes of one file of an archive, unpacked
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # encrypted
    ValueError,
    OverflowError,
)


class File(NamedTuple):
    """What a file holds, and its name for messages."""

    name: str
    data: bytes


Layout = Callable[[File, File], raw.RawDomain]
Content = Callable[[], bytes]


def read(path: Path) -> raw.RawDomain:
    """Reads the ratings and the movies.

    Titles stay as they are ("Matrix, The (1999)"), genres become the categories, and the year of
    release, where it is known, the column `release_year`.

    Args:
      path: a folder or an archive with `u.data` and `u.item` (100K), `ratings.dat` and `movies.dat`
        (1M), or `ml-100k.inter` and `ml-100k.item` (RecBole), at any depth.

    Raises:
      UserError: none of these is there, several are, or one of them cannot be read.
    """
    layout, files = _find(path)
    return layout(*(File(f"{path}: {name}", open_()) for name, open_ in files))


def sources(path: Path) -> dict[str, Path]:
    """The files that are read, by role: the archive, or the two files of the folder.

    Raises:
      UserError: as for `read`.
    """
    if Path(path).is_file():
        return {"archive": path}
    _, files = _find(path)
    return dict(zip(("interactions", "items"), (path / name for name, _ in files), strict=True))


def _find(path: Path) -> tuple[Layout, list[tuple[PurePath, Content]]]:
    """The one layout that is there; the name and content of its two files."""
    files = _archive(path) if Path(path).is_file() else _folder(path)
    found = [
        (layout, [(folder / name, files[folder / name]) for name in names])
        for names, layout in _LAYOUTS.items()
        for folder in sorted({file.parent for file in files if file.name == names[0]})
        if folder / names[1] in files
    ]
    if len(found) != 1:
        wanted = ", or ".join(" and ".join(names) for names in _LAYOUTS)
        there = ", ".join(str(pair[0][0]) for _, pair in found) or "nothing like it"
        raise UserError(f"{path}: looked for one pair of {wanted}, and found {there}")
    return found[0]


def _folder(path: Path) -> Mapping[PurePath, Content]:
    """The files of a folder that are of interest, at any depth, with how to read each."""
    if not Path(path).is_dir():
        raise UserError(f"{path}: cannot be read: No such file or directory")
    return {
        file.relative_to(path): lambda file=file: textfiles.read_bytes(file)
        for file in Path(path).rglob("*")
        if file.name in _NAMES and file.is_file()
    }


def _archive(path: Path) -> Mapping[PurePath, Content]:
    """The files of an archive that are of interest, with how to read each."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _BROKEN_ZIP as error:
        raise UserError(f"{path}: neither a folder nor a readable zip archive ({error})") from error
    return {
        PurePath(member.filename): lambda member=member: _member(path, member)
        for member in members
        if PurePath(member.filename).name in _NAMES
    }


def _member(path: Path, member: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(_LARGEST + 1)
    except _BROKEN_ZIP as error:
        raise UserError(f"{path}: {member.filename} cannot be read: {error}") from error
    if len(data) > _LARGEST:
        raise UserError(f"{path}: {member.filename} is larger than {_LARGEST >> 20} MiB unpacked")
    return data


def _read_100k(ratings: File, movies: File) -> raw.RawDomain:
    flags = [f"genre {genre}" for genre in GENRES]
    names = ["item_id", "title", "release date", "video release date", "url", *flags]
    table = _table(movies, "|", names)
    frame = table.frame[["item_id", "title"]].copy()
    frame["genres"] = _genres_of_flags(table, flags)
    dates = table.frame["release date"].str.extract(r"-(\d{4})$", expand=False)
    frame["release_year"] = dates.fillna(_years(frame["title"]))
    return _domain(_table(ratings, "\t", EVENTS), raw.Source(table.path, frame, table.line))


def _read_1m(ratings: File, movies: File) -> raw.RawDomain:
    table = _table(movies, "::", ["item_id", "title", "genres"])
    frame = table.frame
    frame["genres"] = frame["genres"].str.replace("|", GENRE_JOINT, regex=False)
    frame["release_year"] = _years(frame["title"])
    return _domain(_table(ratings, "::", EVENTS), table)


def _read_recbole(inter: File, item: File) -> raw.RawDomain:
    return recbole.parse(inter, item)


_LAYOUTS: Mapping[tuple[str, str], Layout] = {
    ("u.data", "u.item"): _read_100k,
    ("ratings.dat", "movies.dat"): _read_1m,
    ("ml-100k.inter", "ml-100k.item"): _read_recbole,
}
_NAMES = {name for names in _LAYOUTS for name in names}


def _domain(events: raw.Source, movies: raw.Source) -> raw.RawDomain:
    domain = raw.RawDomain(pd.DataFrame(), None)
    raw.read_interactions(events, {}, domain)
    catalogue.read_items(movies, {}, domain, number_columns=["release_year"])
    return domain


def _table(file: File, separator: str, names: list[str]) -> raw.Source:
    """A file without a header, in UTF-8 or, as GroupLens writes it, in Latin-1."""
    data = file.data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode("utf-8")
    if len(separator) > 1:
        data = data.replace(separator.encode(), _SEPARATOR.encode())
    one = separator if len(separator) == 1 else _SEPARATOR
    return textfiles.parse_delimited(file.name, data, one, quoted=False, names=names)


_SEPARATOR = "\x1f"  # stands in for separators of two characters


def _genres_of_flags(table: raw.Source, flags: list[str]) -> pd.Series:
    marked = table.frame[flags]
    wrong = ~marked.isin(["0", "1"]).all(axis=1).to_numpy()
    if wrong.any():
        raise UserError(f"{table.place(int(wrong.argmax()))}: a genre flag is neither 0 nor 1")
    rows = (marked == "1").to_numpy()
    return pd.Series(
        [GENRE_JOINT.join(g for g, of in zip(GENRES, row, strict=True) if of) for row in rows],
        dtype="str",
    )


def _years(titles: pd.Series) -> pd.Series:
    return titles.str.extract(_YEAR, expand=False).fillna("")
