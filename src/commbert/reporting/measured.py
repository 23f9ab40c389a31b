"""What evaluations found, as rows of a report's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure of the before/after table."""

    key: str
    label: str
    meaning: str
    higher_is_better: bool
    style: str = "{:.3f}"
    is_optional: bool = False
    """Left out of a report in which no column has it."""


ROWS = (
    Row(
        "auc_english", "AUC against English words", "easy: see the controls, rules that never see the first word", True
    ),
    Row("auc_random_code", "AUC against random code words", "medium", True),
    Row("auc_frequency_matched", "AUC against frequency-matched code words", "hard: the honest rung", True),
    Row("auc_frequency_matched_novel", "... novel pairs only", "the pair shares no training line", True),
    Row("ap_frequency_matched_novel", "... their average precision", "0.5 knows nothing", True),
    Row("auc_lexical_novel", "AUC against words that share a sub-word, novel pairs", "hard for who only spells", True),
    Row("retrieval_mrr", "Retrieval MRR", "novel same-line partners among all words", True),
    Row("retrieval_map", "Retrieval MAP", "", True),
    Row("retrieval_r1", "Retrieval R@1", "", True),
    Row("retrieval_r5", "Retrieval R@5", "", True),
    Row("retrieval_r10", "Retrieval R@10", "", True),
    Row("function_mrr", "Same-function MRR", "words of one held-out function, known pairs left out", True),
    Row("function_r10", "Same-function R@10", "", True),
    Row("acronym_mrr", "Acronym MRR", "acronyms and expansions found in the comments, both ways", True),
    Row("acronym_mrr_novel", "... novel ones only", "acronyms that no line of training defines", True),
    Row("term_mrr", "3GPP term MRR", "the table of terms, both ways", True),
    Row("brief_mrr", "Brief to function MRR", "held-out functions by the first words of their comment", True),
    Row("mlm_top1", "MLM top-1 accuracy", "15 % of tokens hidden", True),
    Row("mlm_top5", "MLM top-5 accuracy", "", True),
    Row("mlm_loss", "MLM loss per token (nats)", "", False),
    Row("mlm_loss_per_word", "MLM loss per word (nats)", "comparable across tokenizers", False),
    Row("mlm_loss_per_char", "MLM loss per character (nats)", "comparable across tokenizers", False),
    Row("nsp_accuracy", "NSP accuracy", "does the window follow; 0.5 knows nothing", True, is_optional=True),
    Row("nsp_loss", "NSP loss per pair (nats)", "0.693 knows nothing", False, is_optional=True),
    Row(
        "general_similarity", "General similarity (Spearman)", "graded pairs of plain English: what is to be kept", True
    ),
    Row("general_mlm_loss_per_char", "General MLM loss per character (nats)", "plain English sentences", False),
)

SYSTEM_FIGURES = (
    ("auc_english", "AUC English"),
    ("auc_random_code", "AUC random"),
    ("auc_frequency_matched_novel", "AUC matched, novel"),
    ("auc_lexical_novel", "AUC lexical, novel"),
    ("retrieval_mrr", "line MRR"),
    ("function_mrr", "function MRR"),
    ("acronym_mrr", "acronym MRR"),
    ("acronym_mrr_novel", "acronym MRR, novel"),
    ("term_mrr", "3GPP term MRR"),
    ("brief_mrr", "brief MRR"),
    ("mlm_top1", "MLM top-1"),
    ("general_similarity", "general similarity"),
)
_GEOMETRY = (
    ("alignment", "Alignment (mean squared distance of held-out pairs; lower is nearer)"),
    ("uniformity", "Uniformity (lower is more evenly spread)"),
    ("mean_random_cosine", "Mean cosine of random words"),
    ("effective_rank", "Effective rank"),
    ("effective_rank_centred", "Effective rank, mean taken off"),
    ("hubness", "Hubness (skewness of the 10-occurrence)"),
)


def system_rows(
    names: Sequence[str],
    evaluations: Mapping[str, Mapping[str, Any]],
    differences: Mapping[str, Mapping[str, Any]],
    usage: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return one row per system: its figures, whether the run's own are better, and what making it took.

    Args:
        names: The run first.
        evaluations: Of every name.
        differences: Of every name but the run's: run minus system.
        usage: Records of stages; ``train X`` and ``baseline X`` are what a system took.
    """
    took = {u["stage"]: u for u in usage}
    rows: list[dict[str, Any]] = []
    for name in names:
        cells = {}
        for key, _ in SYSTEM_FIGURES:
            value, change = evaluations[name]["figures"].get(key), differences.get(name, {}).get(key)
            is_told = value is not None and value["value"] is not None
            verdict = ""
            if change is not None and change["low"] is not None and not change["low"] <= 0 <= change["high"]:
                verdict = "run is better" if change["value"] > 0 else "run is worse"
            cells[key] = {**(value if is_told else {"value": None}), "verdict": verdict}
        made = took.get(f"train {name}") or took.get(f"baseline {name}") or {}
        took_j = (made.get("energy") or {}).get("measured_j")
        times = {"wall_s": made.get("wall_s"), "cpu_s": made.get("cpu_s"), "measured_j": took_j}
        rows.append({"name": name, "cells": cells, **times})
    return rows


def control_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rungs with the model's AUC and those of the rules that never see the first word."""
    return [
        {
            "rung": rung.replace("_", " "),
            "model": (evaluation["figures"][f"auc_{rung}"] or {}).get("value"),
            **{name: found[name] for name in ("blind", "classifier", "frequency", "n")},
        }
        for rung, found in evaluation["controls"].items()
    ]


def geometry_rows(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per figure of the geometry, a value per system."""
    found = {name: e["geometry"] or {} for name, e in evaluations.items()}
    return [{"label": label, "values": {name: g.get(key) for name, g in found.items()}} for key, label in _GEOMETRY]


def collapse_lines(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return an alarm for each reason to call a system's vectors collapsed."""
    return [
        f"{name}: {reason}" for name, e in evaluations.items() for reason in (e["geometry"] or {}).get("collapse", [])
    ]


def opposite_rows(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how often a word's nearest neighbour is its opposite, per system."""
    return [{"name": name, **e["opposites"]} for name, e in evaluations.items() if e["opposites"]]


def stratum_rows(evaluations: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> list[dict[str, Any]]:
    """Return the AUC within strata of the hard rungs, systems beside each other; empty strata are left out."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name in shown:
        for s in evaluations[name]["strata"]:
            if s["auc"] is None:
                continue
            row = rows.setdefault(
                (s["rung"], s["by"], s["bucket"]),
                {"rung": s["rung"].replace("_", " "), "by": s["by"], "bucket": s["bucket"], "cells": {}},
            )
            row["cells"][name] = s["auc"]
    return list(rows.values())


def meters(
    leakage: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any], masked_pct: float | None
) -> list[str]:
    """Return the sentences about leaks and shortcuts that stand on the first page."""
    of = leakage["test"]
    seen = {
        "lines": of["lines_seen_in_training_pct"],
        "windows": of["windows_seen_in_training_pct"],
        "word pairs": of.get("pairs_seen_in_training_pct"),
    }
    told = ", ".join(f"{value:.1f} % of the {what}" for what, value in seen.items() if value is not None)
    lines = [
        f"Of the test split, which the figures on held-out text are of, training saw {told}"
        + ("." if seen["word pairs"] is None else "; figures of novel pairs leave those pairs out.")
    ]
    rules = {
        rung: max((c[k] for k in ("blind", "classifier", "frequency") if c[k] is not None), default=None)
        for rung, c in evaluation["controls"].items()
    }
    best = ", ".join(f"{value:.3f} ({rung.replace('_', ' ')})" for rung, value in rules.items() if value is not None)
    if best:
        lines.append(
            f"A rule that never sees the first word reaches an AUC of {best}: near 0.5 is honest, "
            "and the hard rungs (frequency matched, lexical) must be."
        )
    if masked_pct is not None:
        lines.append(f"{masked_pct:.2f} % of the would-be negatives in a step were known positives, and were left out.")
    return lines
