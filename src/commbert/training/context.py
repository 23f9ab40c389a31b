"""What stays the same over all steps of a training."""

import contextlib
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig

from commbert.artifacts import read_manifest
from commbert.errors import ModelError, TrainingError
from commbert.nn.collectives import Processes
from commbert.nn.encoder import Bert
from commbert.nn.model import special_ids
from commbert.nn.packing import SpecialIds
from commbert.sentences import Documents
from commbert.settings.training import TrainingSettings
from commbert.training.data import TrainingData, regular_ids
from commbert.training.plan import Plan, make_plan

_log = logging.getLogger(__name__)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """What stays the same over all steps."""

    settings: TrainingSettings
    data: TrainingData
    plan: Plan
    specials: SpecialIds
    regular_ids: Ints
    pooling: str
    most_positions: int
    """Tokens that the model takes at most; longer words are cut."""
    processes: Processes
    device: torch.device
    autocast: AbstractContextManager[None]


def make_context(
    settings: TrainingSettings,
    data: TrainingData,
    model_folder: Path,
    network: Bert,
    precision: str,
    device: torch.device,
    processes: Processes,
) -> Context:
    """Check that model, data and settings fit together, and plan the steps.

    Args:
        settings: The run's training section.
        data: What is read.
        model_folder: Folder that training starts from.
        network: Its model.
        precision: ``fp32`` or ``bf16``.
        device: Where to compute.
        processes: Who computes.

    Raises:
        ModelError: If the model is too small for the data.
        TrainingError: If there is nothing to train on.
    """
    specials, config = special_ids(model_folder), network.config
    _check_sizes(settings, data, model_folder, config)
    plan = make_plan(
        settings,
        n_windows=len(data.windows) if data.documents is None else len(data.documents.firsts),
        n_pairs=len(data.pairs),
        n_texts=len(data.texts),
        world_size=processes.world_size,
    )
    _check_pairs(settings, data, plan)
    pooling = read_manifest(model_folder)["about"]["settings"]["pooling"]
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    return Context(
        settings=settings,
        data=data,
        plan=plan,
        specials=specials,
        regular_ids=regular_ids(model_folder, list(vars(specials).values())),
        pooling=pooling,
        most_positions=config.max_position_embeddings,
        processes=processes,
        device=device,
        autocast=autocast,
    )


def _check_sizes(settings: TrainingSettings, data: TrainingData, model_folder: Path, config: BertConfig) -> None:
    largest = max(int(data.windows.values.max(initial=0)), int(data.words.values.max(initial=0)))
    if largest >= config.vocab_size:
        raise ModelError(
            f"{model_folder}: expected a vocabulary of more than {largest} entries as in the tables, "
            f"found {config.vocab_size}. "
            "Rerun the stages from tokenizer on."
        )
    longest = max([int(data.windows.sizes.max(initial=0)), *(len(w) for w in data.validation_windows)])
    if data.validation_sentences is not None:
        longest = max(longest, int(data.validation_sentences[0].sizes.max(initial=0)))
    longest, what = (2 * longest + 3, "pairs of windows") if settings.objectives.nsp else (longest + 2, "the windows")
    if settings.objectives.has_mlm and longest > config.max_position_embeddings:
        raise ModelError(
            f"{model_folder}: expected at least {longest} positions for {what}, "
            f"found {config.max_position_embeddings}. Lower windows.max_length."
        )
    if data.documents is not None:
        _check_sentences(data.documents, config)
        if data.validation_sentences is None:
            _log.warning(
                "no NSP is measured while training: the validation split has no windows that follow each other, or one "
                "file only"
            )


def _check_sentences(documents: Documents, config: BertConfig) -> None:
    """Say before the first step that nothing can be learnt of pairs of sentences, or not by this model."""
    if config.type_vocab_size < 2:
        raise ModelError(
            f"config.json type_vocab_size: expected 2 or more with training.objectives.nsp (one of each sentence), "
            f"found {config.type_vocab_size}. Set nsp: 0, or take another base model."
        )
    if not len(documents.firsts):
        raise TrainingError(
            "training.objectives.nsp: expected windows that follow each other in a file, found none. Files (rows of "
            "tables) of one window each give no pairs: set nsp to 0, or lower windows.max_length."
        )
    if not documents.gives_pairs:
        raise TrainingError(
            "training.objectives.nsp: expected two training files at least (random sentences come from another one), "
            "found one. Widen corpus.sources, or set nsp to 0."
        )


def _check_pairs(settings: TrainingSettings, data: TrainingData, plan: Plan) -> None:
    if not plan.n_steps:
        raise TrainingError("training.objectives: expected rows for what has a weight, found no pairs to train on.")
    if settings.objectives.has_contrastive and not len(data.pairs):
        if not (settings.reads_texts and len(data.texts)):
            raise TrainingError(
                "training.objectives: contrastive has a weight, found no pairs of words or of texts to train on. "
                "Set it to 0."
            )
        _log.warning("there are no pairs of words to train on")
    if settings.reads_texts and not len(data.texts):
        _log.warning("there are no pairs of texts to train on: no function has a brief, and nothing defines an acronym")
