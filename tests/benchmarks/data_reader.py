"""How fast commbert's own training reader gives batches: tables to masked, packed micro-batches, without a model.

    python tests/benchmarks/data_reader.py --tables DIR --model DIR [--steps 50]

``DIR`` of the tables is what the data stages wrote, the model folder is only asked for its special tokens. Prints one
line of JSON.
"""

import argparse
import contextlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from commbert.nn.collectives import Processes
from commbert.nn.model import special_ids
from commbert.settings.training import TrainingSettings
from commbert.training.batches import step_batch
from commbert.training.context import Context
from commbert.training.data import DataPaths, read_training_data, regular_ids
from commbert.training.plan import make_plan

WARM_UP_STEPS = 3
CONFIG = Path(__file__).resolve().parents[2] / "config.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    began = time.perf_counter()
    steps = reader(args.tables, args.model)
    for _ in range(WARM_UP_STEPS):
        next(steps)
    ready = time.perf_counter()
    n_tokens = [next(steps) for _ in range(args.steps)]
    seconds = time.perf_counter() - ready
    figures = {
        "steps": args.steps,
        "tokens_per_step": float(np.mean(n_tokens)),
        "tokens_per_s": sum(n_tokens) / seconds,
        "ms_per_step": 1000 * seconds / args.steps,
        "open_s": ready - began,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def reader(tables: Path, model: Path) -> Iterator[int]:
    """Yield the tokens of each step's batch, made as training makes it, on one process.

    The one function to change when the reader does.
    """
    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["training"]
    settings = TrainingSettings.model_validate({**raw, "max_steps": None, "epochs": 1000})
    names = {"windows": "windows/train", "pairs": "pairs/train", "known": "pairs/known", "words": "tokenizer/words"}
    names |= {"validation_windows": "windows/validation", "validation_pairs": "pairs/validation"}
    paths = DataPaths(**{k: tables / f"{v}.{'json' if 'windows' in k else 'parquet'}" for k, v in names.items()})
    data = read_training_data(
        paths, validation_windows=1, validation_pairs=10, validation_queries=1, validation_candidates=2, seed=0
    )
    specials = special_ids(model)
    context = Context(
        settings=settings,
        data=data,
        plan=make_plan(settings, n_windows=len(data.windows), n_pairs=len(data.pairs), world_size=1),
        specials=specials,
        regular_ids=regular_ids(model, list(vars(specials).values())),
        pooling="mean",
        most_positions=512,
        processes=Processes(),
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext(),
    )
    for step in range(context.plan.n_steps):
        yield step_batch(context, step, is_even=False).n_tokens


if __name__ == "__main__":
    main()
