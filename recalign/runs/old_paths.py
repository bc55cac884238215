"""Where modules were when older runs were written: their configurations still load.

A run's config.gin and a token folder's train.gin import modules by path. Bindings keep their names,
since an import gives a moved module the name that it had.
"""

import re

MOVED = {
    "recalign.cached_examples": "recalign.tokens.examples",
    "recalign.engine.adafactor": "recalign.engine.training.adafactor",
    "recalign.engine.architecture": "recalign.engine.network.config",
    "recalign.engine.batch_statistics": "recalign.engine.training.batch_statistics",
    "recalign.engine.batching": "recalign.engine.search.batching",
    "recalign.engine.beam_search": "recalign.engine.search.beam_search",
    "recalign.engine.cached_input": "recalign.tokens.batches",
    "recalign.engine.catalogue": "recalign.engine.search.trie",
    "recalign.engine.checkpoints": "recalign.engine.training.checkpoints",
    "recalign.engine.convert": "recalign.engine.weights.conversion",
    "recalign.engine.depth_loop": "recalign.engine.search.depth_loop",
    "recalign.engine.dry_run": "recalign.engine.training.dry_run",
    "recalign.engine.layer_stack": "recalign.engine.network.layer_stack",
    "recalign.engine.layers": "recalign.engine.network.layers",
    "recalign.engine.losses": "recalign.engine.training.losses",
    "recalign.engine.model": "recalign.engine.training.model",
    "recalign.engine.network": "recalign.engine.network.transformer",
    "recalign.engine.retrieval": "recalign.engine.search.retrieval",
    "recalign.engine.retriever": "recalign.engine.search.inference",
    "recalign.engine.saved_index": "recalign.engine.search.saved_trie",
    "recalign.engine.schedules": "recalign.engine.training.schedules",
    "recalign.engine.scorer": "recalign.engine.search.inference",
    "recalign.engine.scoring": "recalign.engine.search.scoring",
    "recalign.engine.t5x_decoding": "recalign.t5x.decoding",
    "recalign.engine.train": "recalign.engine.training.loop",
    "recalign.engine.trainer": "recalign.engine.training.trainer",
    "recalign.engine.writer": "recalign.engine.search.inference",
    "recalign.runs": "recalign.runs.run",
    "recalign.samples.choices": "recalign.t5x.evaluator",
    "recalign.t5x_bindings": "recalign.t5x.bindings",
    "recalign.t5x_model": "recalign.t5x.model",
}
# One module that became several, by what is bound in it.
SPLIT = {
    "recalign.samples.preprocessors": {
        name: f"recalign.samples.{name}" for name in ("retrieval", "bpr", "mim", "mlm")
    },
}

_IMPORT = re.compile(r"^from (recalign[\w.]*) import (\w+)(?: as (\w+))?$", re.MULTILINE)


def translate(text: str) -> str:
    """A gin file in today's module paths; one that has no old path stays as it is."""
    for _, module, name in set(re.findall(r"^(from (\S+) import (\w+))$", text, re.MULTILINE)):
        for bound, path in SPLIT.get(f"{module}.{name}", {}).items():
            text = re.sub(rf"\b{name}\.{bound}\b", f"{bound}.{bound}", text)
            package, _, leaf = path.rpartition(".")
            text = re.sub(
                rf"^(from {re.escape(module)} import {name})$",
                rf"from {package} import {leaf}\n\1",
                text,
                flags=re.MULTILINE,
            )
        if f"{module}.{name}" in SPLIT:
            text = text.replace(f"from {module} import {name}\n", "")
    return _IMPORT.sub(_translate_import, text)


def _translate_import(found: re.Match) -> str:
    module, name, alias = found.groups()
    moved = MOVED.get(f"{module}.{name}")
    if moved is None:
        return found[0]
    package, _, leaf = moved.rpartition(".")
    bound = alias or name
    return f"from {package} import {leaf}" + ("" if leaf == bound else f" as {bound}")
