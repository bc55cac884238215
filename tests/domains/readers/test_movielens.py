"""MovieLens: both formats, folders and archives, and RecBole's copy of the real 100K."""

import zipfile

import pytest

from recalign.domains.readers import movielens
from recalign.errors import UserError

DATA = "196\t1\t3\t881250949\n196\t2\t5\t881250940\n22\t1\t1\t878887116\n"
ITEM = (
    "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1" + "|0" * 13 + "\n"
    '2|Amélie "A", The (2001)|||http://y|1' + "|0" * 18 + "\n"
).encode("latin-1")
RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n"
MOVIES = (
    "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Misérables, Les::Drama\n"
)
RATINGS_CSV = "userId,movieId,rating,timestamp\n1,11,4.5,1260759144\n1,7,3.0,1260759179\n"
MOVIES_CSV = (
    'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n'
    "7,Amélie,(no genres listed)\n"
)
FILES = {
    "ratings.csv": RATINGS_CSV.encode(),
    "movies.csv": MOVIES_CSV.encode(),
    "u.data": DATA.encode(),
    "u.item": ITEM,
    "ratings.dat": RATINGS.encode(),
    "movies.dat": MOVIES.encode("latin-1"),
}


@pytest.fixture
def place(tmp_path):
    """Writes files into a folder or an archive and returns its path."""

    def write(names, archive=False, **changed):
        contents = {name: changed.get(name.replace(".", "_"), FILES[name]) for name in names}
        if archive:
            path = tmp_path / "ml.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in contents.items():
                    file.writestr(f"ml/{name}", content)
            return path
        folder = tmp_path / "ml"
        (folder / "deeper").mkdir(parents=True)
        for name, content in contents.items():
            (folder / "deeper" / name).write_bytes(content)
        return folder

    return write


@pytest.mark.parametrize("archive", [False, True])
def test_100k(place, archive):
    domain = movielens.read(place(["u.data", "u.item"], archive))
    events = domain.interactions
    assert events["user"].tolist() == ["196", "196", "22"]
    assert events["item"].tolist() == ["1", "2", "1"]
    assert events["rating"].tolist() == [3, 5, 1]
    assert events["timestamp"].tolist() == [881250949, 881250940, 878887116]
    items = domain.items.set_index("key")
    assert items["title"].tolist() == ["Toy Story (1995)", 'Amélie "A", The (2001)']
    assert items["categories"].tolist() == ["Animation, Children's, Comedy", "unknown"]
    assert items["release_year"].tolist() == [1995, 2001]


@pytest.mark.parametrize("archive", [False, True])
def test_1m(place, archive):
    domain = movielens.read(place(["ratings.dat", "movies.dat"], archive))
    assert domain.interactions["item"].tolist() == ["1193", "661"]
    items = domain.items.set_index("key")
    assert items["title"]["661"] == "James and the Giant Peach (1996)"
    assert items["title"]["1193"] == "Misérables, Les"
    assert items["categories"]["661"] == "Animation, Children's"
    assert items["release_year"].isna().tolist() == [False, True]


@pytest.mark.parametrize("archive", [False, True])
def test_latest(place, archive):
    domain = movielens.read(place(["ratings.csv", "movies.csv"], archive))
    assert domain.interactions.to_numpy().tolist() == [
        ["1", "11", 1260759144, 4.5],
        ["1", "7", 1260759179, 3],
    ]
    items = domain.items.set_index("key")
    assert items["title"]["11"] == "American President, The (1995)"
    assert items["categories"].to_dict() == {"11": "Comedy, Drama", "7": ""}
    assert items["release_year"].isna().tolist() == [False, True]


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", ["u.data", "ratings.dat", "ratings.csv"])
def test_ratings_without_movies(place, name, archive):
    path = place([name], archive)
    domain = movielens.read(path)
    assert len(domain.interactions) >= 2
    assert domain.items is None
    if not archive:
        file = path / "deeper" / name
        assert movielens.list_sources(path) == {"interactions": file}
        assert movielens.list_sources(file) == {"interactions": file}
        assert movielens.read(file).interactions.equals(domain.interactions)


def test_a_file_of_ratings_stands_for_the_pair(place):
    file = place(["ratings.dat", "movies.dat"]) / "deeper" / "ratings.dat"
    assert len(movielens.read(file).items) == 2
    assert [*movielens.list_sources(file)] == ["interactions", "items"]


def test_the_copy_in_the_wheel_of_recbole(tmp_path):
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        folder = "recbole/dataset_example/ml-100k"
        wheel.writestr(
            f"{folder}/ml-100k.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        )
        wheel.writestr(
            f"{folder}/ml-100k.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "242\tKolya\t1996\tComedy\n",
        )
    domain = movielens.read(path)
    assert domain.interactions.iloc[0].tolist() == ["196", "242", 881250949, 3]
    assert domain.items.iloc[0].tolist() == ["242", "Kolya", "", "Comedy", "1996"]
    assert sorted(f.name for f in tmp_path.iterdir()) == [path.name]


def test_what_is_read_decides_whether_a_domain_is_the_same(place):
    folder = place(["u.data", "u.item"])
    assert movielens.list_sources(folder) == {
        "interactions": folder / "deeper" / "u.data",
        "items": folder / "deeper" / "u.item",
    }
    archive = place(["u.data", "u.item"], archive=True)
    assert movielens.list_sources(archive) == {"archive": archive}


def refuse(path, *words):
    with pytest.raises(UserError) as error:
        movielens.read(path)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("hidden", ["__MACOSX/ml/u.data", "ml/._copy/u.data"])
def test_what_a_system_puts_beside_the_files_is_none_of_them(place, tmp_path, hidden):
    path = place(["u.data"], archive=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(hidden, "no data")
        archive.extractall(tmp_path / "folder")
    for each in (path, tmp_path / "folder"):
        assert len(movielens.read(each).interactions) == 3


def test_nothing_of_the_kind_and_too_much_of_it(place, tmp_path, put):
    refuse(tmp_path / "none", "No such file")
    refuse(put("x.zip", "no zip"), "neither a folder nor a readable zip")
    refuse(place(["u.item"], archive=True), "u.data and u.item, or", "nothing like it")
    refuse(place(FILES), "found", "u.data", "ratings.dat")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"u_data": DATA.replace("\t5\t", "\tfive\t").encode()}, ["u.data, line 2", "'five'"]),
        ({"u_data": DATA.replace("\t5\t", "\t").encode()}, ["u.data, line 2 has 3 fields"]),
        ({"u_data": b"1,2,3,4\n"}, ["u.data, line 1 has 1 field"]),
        ({"u_data": b""}, ["u.data", "empty"]),
        ({"u_item": ITEM.replace(b"|1|1|1|", b"|1|2|1|")}, ["u.item, line 1", "neither 0 nor 1"]),
        ({"u_item": ITEM.replace(b"|0\n", b"\n")}, ["u.item, line 1 has 23 fields"]),
    ],
)
def test_lines_that_are_refused(place, changed, words):
    refuse(place(["u.data", "u.item"], archive=True, **changed), *words)


@pytest.mark.parametrize(
    "damaged",
    [
        MOVIES_CSV.encode() + b"9,Am\xe9lie,Drama\n",
        MOVIES_CSV.replace("é", "\u2019").encode("cp1252"),
    ],
)
def test_text_in_utf8_with_damage_is_not_taken_for_latin1(place, damaged):
    refuse(place(["ratings.csv", "movies.csv"], movies_csv=damaged), "movies.csv, line", "UTF-8")


def test_members_of_an_archive_are_read_in_place_and_bounded(tmp_path, monkeypatch):
    path = tmp_path / "inner" / "ml.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../evil/u.data", DATA)
        file.writestr("../../evil/u.item", ITEM)
    assert len(movielens.read(path).interactions) == 3
    assert [f.name for f in tmp_path.iterdir()] == ["inner"]
    monkeypatch.setattr(movielens, "_LARGEST", 10)
    refuse(path, "larger than")
    damaged = path.read_bytes().replace(b"196\t1", b"197\t1")
    path.write_bytes(damaged[:60] + b"\xff\xff" + damaged[62:])
    refuse(path, "cannot be read")
