"""recalign: aligns FLAN-T5 with recommendation knowledge, on JAX.

Two planes, one direction. The text plane (`domains`, `prompts`, `samples`) turns interactions into
SeqIO samples; the tensor plane (`engine`) turns samples into a trained model and ranked items, and
never imports TensorFlow; `evaluation` turns ranked items into metrics, with numpy alone.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

# `epath`, by which Orbax too reads and writes, asks once how to go to a bucket: by gcsfs, as
# `recalign.files` does, and not by TensorFlow where that is installed; the tensor plane has none.
os.environ.setdefault("EPATH_USE_TF", "false")
# Otherwise gcsfs asks what kind of bucket it is, by gRPC, and has other ways with some kinds, which
# it calls an experiment; nothing here tests them.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# In a wheel `recalign.tasks` and `recalign.gin` lie inside this package, in a checkout beside it.
# `gin` can have no __init__.py, which would shadow gin-config, and an editable install maps only
# packages that have one.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "gin" / "models").is_dir():
    __path__.append(str(_checkout))
