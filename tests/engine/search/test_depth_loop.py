"""Where the loops over depths begin and end."""

import pytest

from recalign.engine.search.depth_loop import _loops


@pytest.mark.parametrize(
    ("start", "depths", "loops"),
    [
        (0, 5, [(0, 5)]),
        (4, 16, [(4, 16)]),
        (4, 17, [(4, 16), (16, 17)]),
        (0, 100, [(0, 16), (16, 32), (32, 64), (64, 100)]),
        (16, 40, [(16, 32), (32, 40)]),
        (20, 33, [(20, 32), (32, 33)]),
    ],
)
def test_each_loop_has_room_for_twice_the_tokens(start, depths, loops):
    assert list(_loops(start, depths)) == loops
