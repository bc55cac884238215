"""Small domains in memory, or on disk, without a vocabulary."""

import dataclasses

import numpy as np
import pandas as pd

from recalign.domains import Domain
from recalign.evaluation.examples import RetrievalExamples


def domain(rated=False, users=40, items=110, length=6, seed=0, name="shop"):
    """Everyone takes `length` different items, an hour apart; ratings are drawn."""
    rng = np.random.default_rng(seed)
    events = np.concatenate([rng.permutation(items)[:length] for _ in range(users)])
    return Domain(
        name=name,
        items=pd.DataFrame(
            {"key": [str(item) for item in range(items)]}
            | {column: [""] * items for column in ("title", "brand", "categories")}
        ),
        offsets=length * np.arange(users + 1),
        events=events.astype(np.int32),
        ratings=rng.integers(1, 6, len(events)).astype(np.float32) if rated else None,
        timestamps=3600 * np.arange(len(events)),
        keys=np.array([f"user {user}" for user in range(users)], object),
    )


def on_disk(shop, folder):
    """The same domain, with a folder of its own and the lists that it would have drawn."""
    folder.mkdir(exist_ok=True)
    for name in ("validation", "test"):
        np.save(folder / f"candidates_{name}.npy", shop.candidates(name))
    return dataclasses.replace(shop, path=folder)


def retrieval(shop, split):
    """The examples of a split, whose questions are nothing."""
    asked = shop.split(split)
    return RetrievalExamples(
        task=f"{shop.name}_retrieval",
        split=split,
        domain=shop,
        inputs=[np.array([1])] * len(asked),
        offsets=asked.offsets,
        events=asked.events,
        targets=asked.targets,
    )
