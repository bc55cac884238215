"""Unknown ids: what is suggested, and that nobody can make the search for it dear."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.errors import UserError
from recalign.serving.ids import SUGGESTED, Ids

KEYS = [f"B0{number:04d}{letter}" for number in range(0, 5000, 7) for letter in "XY"]


def suggested(ids, key):
    with pytest.raises(UserError) as found:
        ids.find(key)
    message = str(found.value)
    assert message.startswith("shop has no item ")
    if message.endswith("; no id is similar"):
        return []
    return message.partition("did you mean ")[2].removesuffix("?").split(" or ")


@pytest.fixture(scope="module")
def ids():
    return Ids("item", "shop", {key: index for index, key in enumerate(KEYS)})


@given(data=st.data())
@settings(max_examples=60)
def test_one_slip_of_the_hand_is_seen_through(ids, data):
    key = data.draw(st.sampled_from(KEYS))
    place = data.draw(st.integers(0, len(key) - 1))
    head, tail = key[:place], key[place:]
    other = data.draw(st.characters(codec="utf-8"))
    slip = data.draw(
        st.sampled_from(
            [
                head + other + tail,
                head + other + tail[1:],
                head + tail[1:],
                head + tail[1:2] + tail[:1] + tail[2:],
                key.lower(),
            ]
        )
    )
    if slip in KEYS:
        assert ids.find(slip) == KEYS.index(slip)
        return
    found = suggested(ids, slip)
    assert 1 <= len(found) <= SUGGESTED
    assert set(found) <= set(KEYS)
    assert key in found or len(found) == SUGGESTED


def test_what_is_like_nothing_is_answered_with_nothing(ids):
    assert suggested(ids, "something else") == suggested(ids, "") == []


class Counted(dict):
    """Counts how often it is asked, and how many keys are read off it one after the other."""

    asked = read = 0

    def __contains__(self, key):
        self.asked += 1
        return super().__contains__(key)

    def __iter__(self):
        for key in super().__iter__():
            self.read += 1
            yield key


@pytest.mark.parametrize("key", ["k1234567x", "z" * 100_000, "é" * 64, "", "k\0"])
def test_the_cost_of_an_unknown_id_does_not_depend_on_the_catalogue(key):
    known = Counted((f"k{number}", number) for number in range(300_000))
    ids = Ids("item", "shop", known)
    known.asked = known.read = 0
    with pytest.raises(UserError):
        ids.find(key)
    assert known.asked < 14_000
    assert known.read == 0
