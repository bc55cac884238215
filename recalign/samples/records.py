"""The records of a prepared domain (`recalign.domains.records`), as SeqIO's source."""

from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds


class Records(seqio.TfdsDataSource):
    """A build as SeqIO's source, of which any number of readers take equal parts.

    SeqIO itself shares out whole files, or else has every reader read all of them.
    """

    supports_arbitrary_sharding = True

    def get_dataset(
        self,
        split: str,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **options: Any,
    ) -> tf.data.Dataset:
        """See SeqIO; a part is so many records that follow each other.

        Without shuffling they come in the order of the build, that of users.
        """
        if shard_info and shard_info.num_shards > 1:
            size, parts = self.num_input_examples(split), shard_info.num_shards
            low, high = (size * (shard_info.index + end) // parts for end in (0, 1))
            if low == high:  # TFDS has no split without records
                return super().get_dataset(split, shuffle, seed, **options).take(0)
            split = f"{split}[{low}:{high}]"
        if shuffle:
            return super().get_dataset(split, shuffle, seed, **options)
        # By default TFDS takes turns between files.
        in_order = tfds.ReadConfig(
            try_autocache=False, skip_prefetch=True, interleave_cycle_length=1
        )
        return self._builder().as_dataset(split=split, read_config=in_order)

    def num_input_examples(self, split: str) -> int:
        """See SeqIO, which keeps for good what it once read of a folder."""
        return self._builder().info.splits[split].num_examples

    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds.builder(self.tfds_dataset.name, data_dir=self.tfds_dataset.data_dir)
