"""The training of a run in figures, and what is worth saying about how it went."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

FURTHER = (
    ("padding_saved_pct", "padding that is never made (% of a padded batch)"),
    ("mfu_pct", "share of the device's measured matrix speed (%)"),
    ("memory_gib", "memory (GiB)"),
)
"""Figures of a step that a record may hold: shown where they are there."""


def training_section(
    training: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    validations: Sequence[Mapping[str, Any]],
    *,
    n_windows: int,
) -> dict[str, Any]:
    """Return the training's summary with sums and means over its steps.

    Args:
        training: training.json.
        steps: Step rows of the metrics, one at least.
        validations: Validation rows of the metrics.
        n_windows: Windows of the training split.
    """
    last = steps[-max(1, len(steps) // 10) :]
    seconds = sum(s["step_s"] for s in steps)
    norms = [s["gradient_norm"] for s in steps]
    settings = training["identity"]["settings"]
    tokens = sum(s["tokens"] for s in steps)
    return {
        **{k: v for k, v in training.items() if k not in ("environment", "machine", "identity")},
        "texts_epochs": training.get("texts_epochs"),
        "seed": settings["seed"],
        "windows_read": 2 * sum(s.get("sentence_pairs") or 0 for s in steps)
        or round((training["windows_epochs"] or 0.0) * n_windows),
        "tokens": tokens,
        "tokens_per_s": tokens / max(seconds, 1e-9),
        "first_loss": steps[0]["loss"],
        "last_loss": sum(s["loss"] for s in last) / len(last),
        "largest_gradient_norm": max(norms),
        "median_gradient_norm": median(norms),
        "clipped_steps_pct": 100.0 * sum(n > settings["optimizer"]["max_gradient_norm"] for n in norms) / len(norms),
        "peak_learning_rate": max(s["learning_rate"] for s in steps),
        "last_temperature": steps[-1]["temperature"],
        "mean_negatives_per_anchor": mean([s["negatives_per_anchor"] for s in steps]),
        "mean_masked_out_pct": mean([s["masked_out_pct"] for s in steps]),
        "further": _further(steps),
        "validations": len(validations),
        "remarks": remarks(training, steps, validations),
    }


def _further(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for key, label in FURTHER:
        values = [s[key] for s in steps if s.get(key) is not None]
        if values:
            found.append({"key": key, "label": label, "mean": sum(values) / len(values), "most": max(values)})
    return found


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are there."""
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def method_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was trained, in words, and whether masked language modelling was.

    Args:
        settings: The section ``training`` of the run.
    """
    objectives = settings["objectives"]
    end = objectives["mlm_end"]
    is_mlm = objectives["mlm"] > 0 or bool(end)
    parts = ["masked language modelling"] if is_mlm else []
    if objectives.get("nsp"):
        parts.append("next-sentence prediction")
    if objectives["contrastive"] > 0 or (end is not None and end < objectives["mlm"]):
        texts = " and over pairs of texts" if settings["batch_texts"] else ""
        parts.append(f"a contrastive loss over words of one line{texts}")
    alone = "; only the head of the model was trained" if settings["trainable"] == "mlm_head" else ""
    method = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
    return {"method": method + alone, "is_mlm_trained": is_mlm}


def remarks(
    training: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return sentences about what was out of the ordinary in this training."""
    told = []
    if training["stopped_early"]:
        told.append(
            f"Training stopped early, after {training['steps']:,} of {training['planned_steps']:,} planned steps."
        )
    elif training["steps"] < training["planned_steps"]:
        told.append(f"Training ended after {training['steps']:,} of {training['planned_steps']:,} planned steps.")
    if len(steps) == 1:
        told.append("Training was one step long: there are no curves, and nothing can be said about convergence.")
    resumed = training["resumed_at_steps"]
    if resumed:
        times = {1: "once", 2: "twice"}.get(len(resumed), f"{len(resumed)} times")
        told.append(f"Training was resumed {times}, at step {', '.join(f'{s:,}' for s in resumed)}.")
    if not validations:
        told.append("There was no validation: which step was best is not known.")
    best = training["best_step"]
    if best is not None and best != training["steps"]:
        told.append(
            f"The figures are of the weights after the last step, {training['steps']:,}; the best validation by "
            f"{training['best_metric']} was at step {best:,}, and its weights were not measured here."
        )
    if not training["machine"]["gpus"]:
        told.append("The machine has no GPU: training ran on its CPU.")
    if training["collapsed_at_steps"]:
        at = ", ".join(f"{s:,}" for s in training["collapsed_at_steps"])
        told.append(f"Word vectors were collapsed in the validations at step {at}.")
    return told
