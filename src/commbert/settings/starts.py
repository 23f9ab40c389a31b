"""Checks of what training starts from: base, tokenizer and runs that start from other runs must fit together."""

from collections.abc import Iterator, Mapping

from commbert.settings.model import ModelSettings, ScratchModel
from commbert.settings.runs import DataSettings
from commbert.settings.tokenizer import TokenizerSettings


def problems_of_starts(
    model: ModelSettings,
    tokenizer: TokenizerSettings,
    models: Mapping[str, ModelSettings],
    data: Mapping[str, DataSettings],
    has_nsp: Mapping[str, bool],
    where: str,
) -> Iterator[str]:
    """Yield a line for each contradiction.

    Args:
        model: The section ``model``.
        tokenizer: The section ``tokenizer``.
        models: The section of each run, by its name.
        data: What each run reads.
        has_nsp: Whether each run learns next-sentence prediction.
        where: Name of the configuration file.
    """
    found = _tokenizer_without_base(model, tokenizer)
    if found:
        yield f"{where} tokenizer.mode: {found}"
        return
    for run, of_run in data.items():
        name = f"{where} runs.{run}"
        found = _tokenizer_without_base(model, of_run.tokenizer)
        if found:
            yield f"{name}.tokenizer.mode: {found}"
        if of_run.tokenizer.lower_case != tokenizer.lower_case:
            yield f"{name}.tokenizer.lower_case: lines are cut once for all runs. Set tokenizer.lower_case."
        if has_nsp[run] and of_run.windows.max_windows is not None:
            yield (
                f"{name}: with training.objectives.nsp all windows are needed, for what follows one may not be among "
                f"those drawn: windows.max_windows must be null, found {of_run.windows.max_windows}. Raise "
                "windows.stride for fewer windows."
            )
        yield from _problems_of_start(run, models, data, name)
        if isinstance(model.base, ScratchModel):
            yield from _problems_of_scratch(model.base, models[run], of_run, name)
            if has_nsp[run] and 2 * of_run.windows.max_length - 1 > model.base.positions:
                yield (
                    f"{name}: with training.objectives.nsp two windows share the positions, so windows.max_length must "
                    f"be {(model.base.positions + 1) // 2} at most with model.base.positions {model.base.positions}, "
                    f"found {of_run.windows.max_length}. Lower the one or raise the other."
                )


def _tokenizer_without_base(model: ModelSettings, tokenizer: TokenizerSettings) -> str:
    is_scratch, mode = isinstance(model.base, ScratchModel), tokenizer.mode
    if is_scratch and mode != "train":
        return (
            f"expected train with model.base.kind scratch, which has no vocabulary to {mode}, found {mode}. "
            "Set tokenizer.mode: train, or a model.base with a tokenizer (wheel, path, hub)."
        )
    if not is_scratch and mode == "train":
        return (
            f"train learns a new vocabulary, for which model.base.kind {model.base.kind} has no embeddings. "
            "Set model.base.kind: scratch, or tokenizer.mode: extend or keep."
        )
    return ""


def _problems_of_start(
    run: str, models: Mapping[str, ModelSettings], data: Mapping[str, DataSettings], name: str
) -> Iterator[str]:
    start = models[run].start
    if start is None:
        return
    if start not in models:
        yield f"{name}.model.start: expected a name of runs ({', '.join(models)}), found {start!r}. Name one."
        return
    path = _path_of(run, models)
    if path[-1] == run:
        yield f"{name}.model.start: runs start from each other: {' from '.join(path)}. Let one start from the base."
    if data[run].tokenizer != data[start].tokenizer:
        yield (
            f"{name}.tokenizer: expected the settings of runs.{start}, from which the run starts: one model has one "
            "vocabulary. Remove what differs."
        )


def _path_of(run: str, models: Mapping[str, ModelSettings]) -> list[str]:
    """Return a run and what it starts from, one after the other, until one has started from the base or comes again."""
    path = [run]
    while (start := models[path[-1]].start) is not None and start in models:
        path.append(start)
        if start in path[:-1]:
            break
    return path


def _problems_of_scratch(sizes: ScratchModel, model: ModelSettings, data: DataSettings, name: str) -> Iterator[str]:
    if data.windows.max_length > sizes.positions:
        yield (
            f"{name}: windows.max_length must be model.base.positions at most, found {data.windows.max_length} and "
            f"{sizes.positions}. Lower the one or raise the other."
        )
    if data.texts.max_tokens + 2 > sizes.positions:
        yield (
            f"{name}: texts.max_tokens must be model.base.positions - 2 at most ([CLS] and [SEP]), found "
            f"{data.texts.max_tokens} and {sizes.positions}. Lower the one or raise the other."
        )
    if model.average_with_base and model.start is None:
        yield (
            f"{name}: model.average_with_base must be 0 where the start model is drawn anew (it knows nothing to "
            f"keep), found {model.average_with_base:g}. Set 0.0, or model.start."
        )
