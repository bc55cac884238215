"""A parameter on disk, read only when asked for."""

import dataclasses
from collections.abc import Callable

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np

Flat = dict[str, "Tensor"]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array that is somewhere else.

    Attributes:
        shape: of the array.
        dtype: of the array.
        read: gives it; nothing is kept, so that a conversion holds one tensor at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """The tensor of an array that is in memory."""
        return cls(array.shape, np.dtype(array.dtype), lambda: array)

    @property
    def bytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def count_reads(self, on_read: Callable[[int], None]) -> "Tensor":
        """The same; `on_read` is told its bytes whenever it is read."""

        def read() -> np.ndarray:
            array = self.read()
            on_read(self.bytes)
            return array

        return dataclasses.replace(self, read=read)

    @property
    def transposed(self) -> "Tensor":
        """Its transpose, in memory order."""
        return dataclasses.replace(
            self, shape=self.shape[::-1], read=lambda: np.ascontiguousarray(self.read().T)
        )
