"""The text plane: SeqIO tasks over prepared domains, and what the engine is fed from them."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Sends file descriptor 2 nowhere; errors are raised, not printed, so none is lost."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


# TensorFlow 2.21 tells of absent GPUs and of oneDNN at import, whatever its log level. Here it only
# reads data, and must leave a GPU's memory to JAX.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _silenced_stderr():
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (registers the tokeniser's ops)

    tf.config.set_visible_devices([], "GPU")
