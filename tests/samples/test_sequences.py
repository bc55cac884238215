"""What records of a few events become, example by example."""

import numpy as np
import seqio
import tensorflow as tf

from recalign.samples.sequences import next_item_positions, random_cuts, whole_sequences

# Events of users, and whether they are train events or those before a held-out one, and that one.
USERS = [([5], True), ([5, 6], True), ([7, 8, 9], True), ([1, 2, 3], False)]


def records(users=USERS):
    event, events = tf.TensorSpec((), tf.int32), tf.TensorSpec((None,), tf.int32)
    return tf.data.Dataset.from_generator(
        lambda: (
            {
                "history": np.array(those[:-1], np.int32),
                "target": those[-1],
                "candidates": np.array([] if train else [those[-1], 4], np.int32),
                "train": train,
            }
            for those, train in users
        ),
        output_signature={
            "history": events,
            "target": event,
            "candidates": events,
            "train": tf.TensorSpec((), tf.bool),
        },
    )


def asked(dataset):
    """History, target, all events, and candidates of each example."""
    return [
        (e["history"].tolist(), e["target"], e["touched"].tolist(), e["candidates"].tolist())
        for e in dataset.as_numpy_iterator()
    ]


def test_two_events_are_a_sequence_and_one_is_none():
    found = [e["events"].tolist() for e in whole_sequences(records()).as_numpy_iterator()]
    assert found == [[5, 6], [7, 8, 9], [1, 2, 3]]


def test_train_asks_for_all_but_the_first_and_neighbours_are_of_different_users():
    assert asked(next_item_positions(records())) == [
        ([5], 6, [5, 6], []),
        ([7], 8, [7, 8, 9], []),
        ([1, 2], 3, [1, 2, 3], [3, 4]),
        ([7, 8], 9, [7, 8, 9], []),
    ]


def test_every_cut_of_a_sequence_is_drawn_and_held_out_items_stay():
    users = [([7, 8, 9], True), ([1, 2, 3], False)]
    with seqio.utils.map_seed_manager(0):
        cuts = asked(random_cuts(next_item_positions(records(users)), 200))
    assert [cut for cut in cuts if cut[2] == [1, 2, 3]] == [([1, 2], 3, [1, 2, 3], [3, 4])]
    train = [cut for cut in cuts if cut[2] == [7, 8, 9]]
    assert len(train) == 200
    assert 70 < sum(cut == ([7], 8, [7, 8, 9], []) for cut in train) < 130
    assert 70 < sum(cut == ([7, 8], 9, [7, 8, 9], []) for cut in train) < 130
