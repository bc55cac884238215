"""Sealed files: what another key wrote, or what was changed by a byte, is never unpickled."""

import pickle

import pytest

from recalign.domains.scratch import Scratch
from recalign.errors import UserError


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_come_back_alone_and_by_their_ranges(tmp_path):
    folder = Scratch(tmp_path)
    (folder / "one").write({"a": [1, 2]})
    places = (folder / "many").write_all(["x", [], "y" * 1000])
    worker = pickle.loads(pickle.dumps(folder))
    assert (worker / "one").read() == {"a": [1, 2]}
    assert [(worker / "many").read(*place) for place in places] == ["x", [], "y" * 1000]
    assert (worker / "one").beside("many").read(*places[0]) == "x"


def test_what_others_wrote_is_not_unpickled(tmp_path):
    ours, sprung = Scratch(tmp_path) / "file", tmp_path / "sprung"
    ours.path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(UserError, match="file was changed"):
        ours.read()
    (Scratch(tmp_path) / "file").write(Trap(sprung))
    with pytest.raises(UserError, match="file was changed"):
        ours.read()
    assert not sprung.exists()
    ours.write(Trap(sprung))
    ours.read()
    assert sprung.exists()


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_byte_changed_or_lost(tmp_path, place):
    file = Scratch(tmp_path) / "file"
    file.write("content")
    whole = file.path.read_bytes()
    changed = bytearray(whole)
    changed[place] ^= 1
    for content in (bytes(changed), whole[:-1], b""):
        file.path.write_bytes(content)
        with pytest.raises(UserError, match="file was changed"):
            file.read()
