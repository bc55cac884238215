"""What `recalign prepare` prints of a domain."""

from collections.abc import Mapping
from typing import Any


def summarise(outcome: Any) -> str:
    """A few lines on what came of a preparation, a `domains.prepare.Outcome`."""
    s, folder = outcome.statistics, outcome.folder
    name = s["name"]
    if not outcome.fresh:
        return (
            f"{name} is already prepared in {folder}, with the same options from the "
            "same files; nothing was done."
        )
    length = s["history_length"]
    lines = [
        f"{name}: {s['users']:,} users, {s['items']:,} items, "
        f"{s['interactions']:,} interactions (sparsity {s['sparsity']:.4%})",
        f"  events a user: mean {length['mean']:.1f}, median {length['median']:g}, "
        f"95 % up to {length['p95']:g}, longest {length['max']:,}",
        f"  records: {s['records_train']:,} train, {s['records_validation']:,} validation, "
        f"{s['records_test']:,} test; {s['users_without_test']:,} users without test",
        f"  test targets never seen in training: {s['cold_test_items']:,} items, "
        f"{s['cold_test_records']:,} records",
        *_rating_lines(s),
        *_id_lines(s),
        *_column_lines(s["columns"]),
        *_cleaning_lines(s["cleaning"]),
        f"  vocabulary: {_vocabulary_line(outcome)}",
        f"written to {folder}",
        f"next: recalign tasks {name}_retrieval --examples 3",
    ]
    return "\n".join(lines)


def _rating_lines(s: Mapping[str, Any]) -> list[str]:
    if "ratings" not in s:
        return []
    r = s["ratings"]
    return [
        f"  ratings: {r['train']:,} train, {r['validation']:,} validation, {r['test']:,} test, "
        f"{r['values'][0]:g} to {r['values'][-1]:g}, mean {r['mean']:.2f}"
    ]


def _vocabulary_line(outcome: Any) -> str:
    if not outcome.statistics["vocabulary_pieces"]:
        return "T5's public one"
    from recalign.engine.weights.growth import rows_for
    from recalign.engine.weights.tokenizer import count_added

    before, new = count_added((outcome.folder / "spiece.model").read_bytes())
    kinds = f"{before + new:,} pieces" + (f", {new:,} of them new" if new else "")
    return f"{kinds} (VOCAB_SIZE = {rows_for(before, new)})"


def _id_lines(s: Mapping[str, Any]) -> list[str]:
    if "item_ids" not in s:
        return []
    ids = s["item_ids"]
    used = ", ".join(f"{lv['used']} (perplexity {lv['perplexity']:.0f})" for lv in ids["levels"])
    return [
        f"  item ids: {ids['method']} of {ids['vectors']}; codes used in each level: {used}",
        f"  items that share all their codes with another: {ids['collision_rate']:.1%}, at most "
        f"{ids['largest_group']:,} the same; a counter tells them apart",
    ]


def _column_lines(columns: Mapping[str, Any]) -> list[str]:
    lines = []
    for part in ("interactions", "items"):
        used = ", ".join(
            role if role == column else f"{role} from {column}"
            for role, column in columns.get(part, {}).items()
        )
        other = columns.get("interactions_ignored" if part == "interactions" else "items_kept")
        note = f"; {'ignored' if part == 'interactions' else 'kept'}: {', '.join(other or [])}"
        if used:
            lines.append(f"  {part} columns: {used}" + (note if other else ""))
    return lines


def _cleaning_lines(counts: Mapping[str, int]) -> list[str]:
    kept = counts.get("duplicate_interactions_kept")
    done = [
        f"{key.replace('_', ' ')} {count:,}"
        for key, count in counts.items()
        if count and key != "duplicate_interactions_kept"
    ]
    return [
        *([f"  repeated interactions, which are kept: {kept:,}"] if kept else []),
        "  clean-up: " + (", ".join(done) if done else "nothing to clean"),
    ]
