"""What the workers of one preparation leave each other in files, and nobody else can have written.

They hold any Python object, as a pickle, and a pickle runs what it says. A shared folder, or a
bucket, is no place to trust, so each object has a seal: a keyed hash by a key that the driver draws
for one preparation and hands to its workers with their tasks. What lacks the seal is not unpickled.
"""

import dataclasses
import hashlib
import hmac
import pickle
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recalign.errors import UserError

_SEAL = 32  # bytes before each object


@dataclasses.dataclass(frozen=True)
class Scratch:
    """A file of sealed objects, or the folder of such files.

    Attributes:
      path: where it is; in a bucket, an `epath.Path`.
      key: of the seals; a new one by default.
    """

    path: Path
    key: bytes = dataclasses.field(default_factory=lambda: secrets.token_bytes(_SEAL), repr=False)

    def __truediv__(self, name: str) -> "Scratch":
        return Scratch(self.path / name, self.key)

    def beside(self, name: str) -> "Scratch":
        """The file of that name in the same folder."""
        return Scratch(self.path.with_name(name), self.key)

    def write(self, value: Any) -> None:
        """Makes it a file of one object."""
        self.write_all([value])

    def write_all(self, values: Iterable[Any]) -> list[tuple[int, int]]:
        """Makes it a file of some objects, and returns the range of bytes of each."""
        content, places = bytearray(), []
        for value in values:
            start, data = len(content), pickle.dumps(value)
            content += self._seal(data) + data
            places.append((start, len(content)))
        self.path.write_bytes(bytes(content))
        return places

    def read(self, start: int = 0, stop: int | None = None) -> Any:
        """The object in a range of bytes, or the file's only one.

        Raises:
          UserError: it was not written with this key.
        """
        with self.path.open("rb") as file:
            file.seek(start)
            content = file.read(-1 if stop is None else stop - start)
        data = content[_SEAL:]
        if not hmac.compare_digest(content[:_SEAL], self._seal(data)):
            raise UserError(f"{self.path} was changed by something else while it was in use")
        return pickle.loads(data)

    def _seal(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self.key, digest_size=_SEAL).digest()
