"""Where things were when older runs were written: their configurations still load.

A run's config.gin and a token folder's train.gin name modules by path, and what is configured in
them. A recipe of a user's own may be as old.
"""

from gin.config_parser import BindingStatement, ImportStatement, Location

from recalign.runs import gin_text
from recalign.runs.gin_text import Reference, Statement

MOVED = {
    "recalign.cached_examples": "recalign.tokens.data",
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

_NOWHERE = Location(None, 0, None, "")
_RUN, _INFERENCE = "recalign.runs.run.Run", "recalign.engine.search.inference.Inference"
_SEQIO, _TOKENS = "recalign.samples.data.SeqioData", "recalign.tokens.data.TokenData"
_OF_SAMPLES = ("mixture_or_task_name", "module", "task_feature_lengths")
# What was configured by another name, after its module is renewed; None needs no telling any more.
RENAMED: dict[str, str | None] = {
    **{
        f"recalign.samples.inputs.train_batches.{name}": f"{_SEQIO}.{name}"
        for name in (*_OF_SAMPLES, "batch_size", "seed", "pack", "use_cached", "cache_dirs")
    },
    **{
        f"recalign.tokens.batches.CachedBatches.{name}": f"{_TOKENS}.{name}"
        for name in ("directory", "batch_size", "seed")
    },
    **{
        f"recalign.engine.search.inference.Retriever.{name}": f"{_INFERENCE}.{name}"
        for name in ("num_beams", "batch_size", "length_multiple", "exact", "chunk", "renormalise")
    },
    **{
        f"recalign.engine.search.inference.Scorer.{name}": f"{_INFERENCE}.scoring_{name}"
        for name in ("batch_size", "renormalise")
    },
    "recalign.engine.search.inference.Scorer.length_multiple": None,
    "recalign.engine.search.inference.Writer.batch_size": None,
    "recalign.engine.search.inference.Writer.length_multiple": None,
    "recalign.samples.inputs.train_batches.split": None,
    **{
        f"recalign.{function}.{name}": None
        for function in (
            *("samples.inputs.decode", "samples.inputs.provenance"),
            *("samples.inputs.vocabulary_size", "samples.judged.examples"),
            *("tokens.batches.decode", "tokens.batches.provenance"),
            *("tokens.batches.vocabulary_size", "tokens.data.examples"),
        )
        for name in (*_OF_SAMPLES, "directory", "num_examples", "task")
    },
    **{
        f"recalign.engine.training.trainer.batch_shapes.{name}": None
        for name in ("task_feature_lengths", "batch_size", "pack")
    },
    # The trainer's seed is that of all that it trains.
    "recalign.engine.training.side_information.train_with_side_information.seed": None,
    f"{_RUN}.train_input": f"{_RUN}.data",
    f"{_RUN}.retriever": f"{_RUN}.inference",
    **{
        f"{_RUN}.{name}": None
        for name in (
            *("batch_shapes", "decode", "examples", "provenance", "vocabulary_size"),
            *("scorer", "writer"),
        )
    },
}
# What makes an object now, where a function was given that made a part of it.
REPLACED = {
    "recalign.samples.inputs.train_batches": _SEQIO,
    "recalign.tokens.batches.CachedBatches": _TOKENS,
    "recalign.engine.search.inference.Retriever": _INFERENCE,
}


def translate(text: str, name: str | None = None) -> str:
    """A gin file, by its text and its name for errors, as it is written today."""
    found = gin_text.parse(text, name)
    renewed = _renew(found)
    return text if renewed == found else gin_text.write(renewed)


def translate_binding(binding: str) -> str:
    """The same for `NAME=VALUE` of a command line, whose name may lack the module."""
    name, separator, value = binding.partition("=")
    for old, new in RENAMED.items():
        if new and old.endswith(f".{name.strip()}") and name.count(".") == 1:
            return f"{'.'.join(new.split('.')[-2:])}{separator}{value}"
    return binding


def _renew(found: list[Statement]) -> list[Statement]:
    known = gin_text.modules(found)

    def in_full(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{_today(known[first], rest)}{dot}{rest}" if first in known else name

    whole = gin_text.rename(found, in_full)
    renewed = [new for old in whole if (new := _rename(old))]
    if renewed == whole and not MOVED.keys() & known.values() and not SPLIT.keys() & known.values():
        return found
    idle = _macros(whole) - _macros(renewed)  # what only a binding that is gone refers to
    renewed = [s for s in renewed if not (gin_text.is_macro(s) and s.selector in idle)]
    used = {path.rpartition(".")[0] for path in _paths(renewed)}
    bound = {MOVED.get(module, module): n for n, module in known.items() if module not in SPLIT}
    bound = {m: n for m, n in bound.items() if m in used or not m.startswith("recalign.")}
    for module in sorted(m for m in used - bound.keys() if m.startswith("recalign.")):
        leaf = module.rpartition(".")[2]
        bound[module] = module.replace(".", "_") if leaf in bound.values() else leaf

    imports = [s for s in found if isinstance(s, ImportStatement) and s.module == gin_text.DYNAMIC]
    imports += [
        ImportStatement(module, "." in module, None if leaf == name else name, _NOWHERE)
        for module, name in bound.items()
        for leaf in [module.rpartition(".")[2]]
    ]
    body = [s for s in renewed if not isinstance(s, ImportStatement)]
    return gin_text.in_short(imports + body)


def _today(module: str, rest: str) -> str:
    parts = SPLIT.get(module, {})
    return parts.get(rest.partition(".")[0], MOVED.get(module, module))


def _rename(statement: Statement) -> Statement | None:
    """A statement with whole paths by today's name, None for one that says nothing any more."""
    if not isinstance(statement, BindingStatement):
        return statement
    new = RENAMED.get(path := f"{statement.selector}.{statement.arg_name}", path)
    if new is None:
        return None
    if new == path:
        return statement
    selector, _, argument = new.rpartition(".")
    value = gin_text.replace(statement.value, _replace)
    return statement._replace(selector=selector, arg_name=argument, value=value)


def _replace(part: Reference) -> Reference:
    return Reference("@", REPLACED[part.name], called=True) if part.name in REPLACED else part


def _macros(found: list[Statement]) -> set[str]:
    """The macros that are referred to."""
    values = [s.value for s in found if isinstance(s, BindingStatement)]
    return {part.name for part in gin_text.references(values) if part.sign == "%"}


def _paths(found: list[Statement]) -> set[str]:
    """What statements configure and refer to."""
    bindings = [s for s in found if isinstance(s, BindingStatement) and s.arg_name]
    parts = gin_text.references([s.value for s in found if isinstance(s, BindingStatement)])
    return {s.selector for s in bindings} | {p.name.rpartition("/")[2] for p in parts}
