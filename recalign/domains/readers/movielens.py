"""MovieLens as GroupLens publishes it, and RecBole's copy of 100K.

Formats: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt, ml-1m-README.txt (10M
likewise) and ml-latest-README.html (20M and later likewise). The files are looked for in a folder,
or in a zip archive (the `.zip` of GroupLens; RecBole's wheel), which is read in place: nothing is
ever extracted.
"""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from recalign.domains import catalogue
from recalign.domains.raw import RawDomain
from recalign.domains.readers import delimited, opening, recbole
from recalign.domains.source import Source
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
_SEPARATOR = "\x1f"  # stands in for separators of two characters


class File(NamedTuple):
    """What a file holds, and its name for messages."""

    name: str
    data: bytes


class Layout(NamedTuple):
    """The names of the two files of a release, and what makes tables of them.

    With the table of movies comes which of its columns hold numbers.
    """

    ratings: str
    movies: str
    parse_ratings: Callable[[File], Source]
    parse_movies: Callable[[File], tuple[Source, list[str]]]


Content = Callable[[], bytes]


def read(path: Path) -> RawDomain:
    """Reads the ratings and the movies.

    Titles stay as they are ("Matrix, The (1999)"), genres become the categories, and the year of
    release, where it is known, the column `release_year`.

    Args:
      path: a folder or an archive with the files of one of `_LAYOUTS`, at any depth, or the file of
        ratings itself. The movies may be absent.

    Raises:
      UserError: no ratings are there, or several, or a file cannot be read.
    """
    layout, files = _find(path)
    ratings, *movies = [File(f"{path}: {name}", open_()) for name, open_ in files]
    table, number_columns = layout.parse_movies(*movies) if movies else (None, [])
    return catalogue.read_domain(layout.parse_ratings(ratings), table, {}, number_columns)


def list_sources(path: Path) -> dict[str, Path]:
    """The files that are read, by role: the archive, or those of the folder.

    Raises:
      UserError: as for `read`.
    """
    if Path(path).is_file() and path.name not in _NAMES:
        return {"archive": path}
    root = path if path.is_dir() else path.parent
    _, files = _find(path)
    return {role: root / file for role, (file, _) in zip(_ROLES, files, strict=False)}


def _find(path: Path) -> tuple[Layout, list[tuple[PurePath, Content]]]:
    """The one layout that is there; the name and content of its files, the ratings first."""
    if path.is_file() and path.name in _NAMES:
        layouts = [layout for layout in _LAYOUTS if layout.ratings == path.name]
        files = {file: read for file, read in _folder(path.parent).items() if len(file.parts) == 1}
    else:
        layouts, files = _LAYOUTS, _archive(path) if path.is_file() else _folder(path)
    found = [
        (layout, [(f, files[f]) for name in layout[:2] if (f := folder / name) in files])
        for layout in layouts
        for folder in sorted({file.parent for file in files if file.name == layout.ratings})
    ]
    if len(found) != 1:
        wanted = ", or ".join(f"{layout.ratings} and {layout.movies}" for layout in _LAYOUTS)
        there = ", ".join(str(pair[0][0]) for _, pair in found) or "nothing like it"
        raise UserError(f"{path}: looked for one pair of {wanted}, and found {there}")
    return found[0]


def _folder(path: Path) -> Mapping[PurePath, Content]:
    """The files of a folder that are of interest, at any depth, with how to read each."""
    if not path.is_dir():
        raise UserError(f"{path}: cannot be read: No such file or directory")
    return {
        file.relative_to(path): lambda file=file: opening.read_content(file)
        for file in path.rglob("*")
        if file.name in _NAMES and file.is_file() and not opening.is_marked(file.relative_to(path))
    }


def _archive(path: Path) -> Mapping[PurePath, Content]:
    """The files of an archive that are of interest, with how to read each."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except opening.BROKEN_ARCHIVE as error:
        raise UserError(f"{path}: neither a folder nor a readable zip archive ({error})") from error
    return {
        PurePath(member.filename): lambda member=member: _member(path, member)
        for member in members
        if PurePath(member.filename).name in _NAMES and not opening.is_marked(member.filename)
    }


def _member(path: Path, member: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(_LARGEST + 1)
    except opening.BROKEN_ARCHIVE as error:
        raise UserError(f"{path}: {member.filename} cannot be read: {error}") from error
    if len(data) > _LARGEST:
        raise UserError(f"{path}: {member.filename} is larger than {_LARGEST >> 20} MiB unpacked")
    return data


def _parse_movies_100k(file: File) -> tuple[Source, list[str]]:
    flags = [f"genre {genre}" for genre in GENRES]
    names = ["item_id", "title", "release date", "video release date", "url", *flags]
    table = _parse(file, "|", names)
    frame = table.frame[["item_id", "title"]].copy()
    frame["genres"] = _join_flags(table, flags)
    dates = table.frame["release date"].str.extract(r"-(\d{4})$", expand=False)
    frame["release_year"] = dates.fillna(_find_years(frame["title"]))
    return Source(table.path, frame, table.place), ["release_year"]


def _parse_movies(
    file: File, separator: str, names: Sequence[str] | None
) -> tuple[Source, list[str]]:
    table = _parse(file, separator, names)
    if not {"title", "genres"} <= {*table.frame.columns}:
        return table, []
    genres = table.frame["genres"].replace("(no genres listed)", "")
    table.frame["genres"] = genres.str.replace("|", GENRE_JOINT, regex=False)
    table.frame["release_year"] = _find_years(table.frame["title"])
    return table, ["release_year"]


def _parse(file: File, separator: str, names: Sequence[str] | None = None) -> Source:
    """A file in UTF-8 or, as GroupLens writes some, in Latin-1; `names` where it has no header."""
    data = file.data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        if _is_latin1(data):
            data = data.decode("latin-1").encode("utf-8")
    if len(separator) > 1:
        data = data.replace(separator.encode(), _SEPARATOR.encode())
    one = separator if len(separator) == 1 else _SEPARATOR
    return delimited.parse(file.name, data, one, quoted=names is None, names=names)


def _is_latin1(data: bytes) -> bool:
    """Whether text that is no UTF-8 is Latin-1, and neither damaged UTF-8 nor Windows' encoding."""
    has_letters_of_utf8 = not data.decode("utf-8", errors="ignore").isascii()
    return not has_letters_of_utf8 and not re.search(rb"[\x80-\x9f]", data)


def _join_flags(table: Source, flags: list[str]) -> pd.Series:
    marked = table.frame[flags]
    wrong = ~marked.isin(["0", "1"]).all(axis=1).to_numpy()
    if wrong.any():
        raise UserError(f"{table.place(int(wrong.argmax()))}: a genre flag is neither 0 nor 1")
    rows = (marked == "1").to_numpy()
    return pd.Series(
        [GENRE_JOINT.join(g for g, of in zip(GENRES, row, strict=True) if of) for row in rows],
        dtype="str",
    )


def _find_years(titles: pd.Series) -> pd.Series:
    return titles.str.extract(_YEAR, expand=False).fillna("")


_LAYOUTS = (
    Layout("u.data", "u.item", lambda file: _parse(file, "\t", EVENTS), _parse_movies_100k),
    Layout(
        "ratings.dat",
        "movies.dat",
        lambda file: _parse(file, "::", EVENTS),
        lambda file: _parse_movies(file, "::", ["item_id", "title", "genres"]),
    ),
    Layout(
        "ratings.csv",
        "movies.csv",
        lambda file: _parse(file, ","),
        lambda file: _parse_movies(file, ",", None),
    ),
    Layout(
        "ml-100k.inter",
        "ml-100k.item",
        lambda file: recbole.parse_atomic(*file)[0],
        lambda file: recbole.parse_atomic(*file),
    ),
)
_NAMES = {name for layout in _LAYOUTS for name in layout[:2]}
_ROLES = ("interactions", "items")
