"""The whole configuration, and checks of what its sections say of each other."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from commbert.errors import SettingsError
from commbert.settings.base import Name, Section, merged
from commbert.settings.baselines import BaselinesSettings
from commbert.settings.checking import checked, problems
from commbert.settings.corpus import CorpusSettings
from commbert.settings.evaluation import EvaluationSettings
from commbert.settings.explore import ExploreSettings
from commbert.settings.finetune import FinetuneEntry
from commbert.settings.model import ModelSettings, ScratchModel
from commbert.settings.pairs import PairsSettings
from commbert.settings.report import ReportSettings
from commbert.settings.runs import CHANGEABLE, DataSettings, RunSettings, name_and_seed, overridden
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.starts import problems_of_starts
from commbert.settings.sweep import SweepSettings
from commbert.settings.texts import TextsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.training import TrainingSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings

RULES = ("frequency", "char_ngrams", "ppmi_svd")
"""What is measured beside the runs without a language model."""


class Config(Section):
    """``config.yaml``, checked."""

    corpus: CorpusSettings
    """What is read."""
    words: WordsSettings = WordsSettings()
    """What counts as a word."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """How the vocabulary grows."""
    windows: WindowsSettings = WindowsSettings()
    """Rows of the masked language model."""
    pairs: PairsSettings = PairsSettings()
    """Word pairs."""
    texts: TextsSettings = TextsSettings()
    """Pairs of texts."""
    baselines: BaselinesSettings = BaselinesSettings()
    """Word vectors without a language model."""
    model: ModelSettings
    """What training starts from."""
    training: TrainingSettings = TrainingSettings()
    """How it is trained."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What is measured."""
    report: ReportSettings = ReportSettings()
    """What is printed."""
    explore: ExploreSettings = ExploreSettings()
    """What is shown of the word vectors."""
    sweep: SweepSettings = SweepSettings()
    """What the table of ablations compares."""
    finetune: dict[Name, FinetuneEntry] = Field(default_factory=dict)
    """Fine-tunings by name: what ``snakemake finetune`` makes."""
    runtime: RuntimeSettings = RuntimeSettings()
    """Where and how stages run; changes no result."""
    runs: dict[Name, RunSettings] = Field(default_factory=lambda: {"final": RunSettings()})
    """Training runs by name; ``final`` is the main one."""

    def model_of(self, run: str) -> ModelSettings:
        """Return the ``model`` section with the run's changes."""
        name, _ = name_and_seed(run)
        return overridden(self.model, self.runs[name].model)

    def training_of(self, run: str) -> TrainingSettings:
        """Return the ``training`` section with the run's changes, and with the seed that its name states."""
        name, seed = name_and_seed(run)
        changes = self.runs[name].training | ({} if seed is None else {"seed": seed})
        return overridden(self.training, changes)

    def data_of(self, run: str) -> DataSettings:
        """Return the sections that decide what the run reads, with its changes."""
        own = self.runs[name_and_seed(run)[0]]
        return DataSettings(
            overridden(self.tokenizer, own.tokenizer),
            overridden(self.windows, own.windows),
            overridden(self.pairs, own.pairs),
            overridden(self.texts, own.texts),
        )

    def reads_texts(self, run: str) -> bool:
        """Return whether the run reads pairs of texts."""
        return self.training_of(run).reads_texts

    def variant_of(self, run: str) -> str:
        """Return what stands between ``results`` and the run's data tables in their paths; nothing for the shared."""
        return self.data_of(run).folder_beside(DataSettings(self.tokenizer, self.windows, self.pairs, self.texts))

    @property
    def has_base(self) -> bool:
        """Return whether there is a base model, and with it a tokenizer that is not learnt from the corpus."""
        return not isinstance(self.model.base, ScratchModel)

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """Return what is measured beside the runs: the untouched base model, or what is drawn in its place, first."""
        return ("base" if self.has_base else "untrained", *RULES)

    def start_of(self, run: str) -> str:
        """Return the folder of the model of another run that the run starts from; nothing if it starts from none."""
        start = self.model_of(run).start
        return f"results/runs/{start}/final" if start else ""

    def starts_of(self, run: str) -> list[str]:
        """Return the runs that came before this one, the nearest first: the one that it starts from, and so on."""
        return [] if (start := self.model_of(run).start) is None else [start, *self.starts_of(start)]

    def told_start_of(self, run: str) -> str:
        """Return what the run starts from, in words."""
        start = self.model_of(run).start
        return f"run {start}" if start else "base model" if self.has_base else "untrained model"

    def start_pooling_of(self, run: str) -> str:
        """Return how the model that the run starts from is read."""
        model = self.model_of(run)
        return (
            self.model_of(model.start).pooling
            if model.start
            else self.model.pooling
            if self.has_base
            else model.pooling
        )

    @property
    def untrained_run(self) -> str:
        """Return the run whose start model is measured as ``untrained``: the first one that starts from no other."""
        return next(run for run in self.runs if self.model_of(run).start is None)

    @property
    def base_pooling(self) -> str:
        """Return how the untouched base model, or the untrained one, is read."""
        return self.model.pooling if self.has_base else self.model_of(self.untrained_run).pooling

    @property
    def variants(self) -> dict[str, DataSettings]:
        """Return the settings of all data tables by what stands in their paths; the shared ones first."""
        shared = DataSettings(self.tokenizer, self.windows, self.pairs, self.texts)
        return {"": shared} | {self.variant_of(run): self.data_of(run) for run in self.runs}

    def settings_of(self, run: str) -> str:
        """Return all settings of a run that decide its result, as JSON: what its report prints.

        ``runs`` holds those of the runs that it starts from, the nearest first.
        """
        whole = self.model_dump(mode="json", exclude={"runtime", "runs", "sweep", "finetune"})
        whole |= self._sections_of(run)
        starts = {name: self._sections_of(name) for name in self.starts_of(run)}
        for sections in starts.values():
            del sections["model"]["base"]  # one for all runs
        if starts:
            whole["runs"] = starts
        return json.dumps(whole, sort_keys=True, separators=(",", ":"))

    def _sections_of(self, run: str) -> dict[str, Any]:
        own = {**vars(self.data_of(run)), "model": self.model_of(run), "training": self.training_of(run)}
        return {name: section.model_dump(mode="json") for name, section in own.items()}

    @property
    def main_runs(self) -> list[str]:
        """Return the runs that ``train`` and ``all`` make: all but the ablations."""
        return [name for name, run in self.runs.items() if not run.ablation]

    @property
    def swept_runs(self) -> dict[str, list[str]]:
        """Return the rows of the sweep's table: names of runs, each with its runs of all seeds."""
        rows = [self.sweep.reference or self.main_runs[0], *(name for name, run in self.runs.items() if run.ablation)]
        few = {*self.sweep.one_seed} - {rows[0]}
        seeds = {name: self.sweep.seeds[:1] if name in few else self.sweep.seeds for name in rows}
        return {name: [self.with_seed(name, seed) for seed in those] for name, those in seeds.items()}

    def sweep_plan(self) -> str:
        """Return the rows of the sweep's table, what each changes and its runs, as JSON."""
        rows = {name: {"changes": self.runs[name].changes(), "runs": runs} for name, runs in self.swept_runs.items()}
        return json.dumps(rows, sort_keys=False, separators=(",", ":"))

    def with_seed(self, run: str, seed: int) -> str:
        """Return the name of the run with that seed of training."""
        return run if self.training_of(run).seed == seed else f"{run}@{seed}"

    def evaluations_beside(self, run: str) -> dict[str, str]:
        """Return the evaluation of each column and system beside a run in its report."""
        names = [name for name in self.report.beside if name != run]
        return {
            name: f"results/{'baselines' if name in self.baseline_names else 'runs'}/{name}/evaluation.json"
            for name in names
        }

    @property
    def reported_runs(self) -> list[str]:
        """Return the runs that get a report: all but those that only serve as a column of another one."""
        return [run for run in self.main_runs if run == "final" or run not in self.report.beside]


def load(raw: Mapping[str, Any], *, where: str = "config.yaml") -> Config:
    """Check a configuration as read from YAML.

    Raises:
        SettingsError: With one line per problem: setting, expected, found, nearest known name.
    """
    if "__use_yte__" in raw:
        raise SettingsError(f"{where}: __use_yte__ is refused: it would run code from the file. Remove that line.")
    config = checked(Config, _without_removed(raw), where)
    lines = [*_problems_of_runs(config, where), *_problems_of_names(config, where)]
    if not lines:
        models = {run: config.model_of(run) for run in config.runs}
        data = {run: config.data_of(run) for run in config.runs}
        has_nsp = {run: config.training_of(run).objectives.nsp > 0 for run in config.runs}
        lines = list(problems_of_starts(config.model, config.tokenizer, models, data, has_nsp, where))
    if lines:
        raise SettingsError("\n".join(lines))
    return config


def _problems_of_runs(config: Config, where: str) -> Iterator[str]:
    for name, run in config.runs.items():
        for key in CHANGEABLE:
            section, changes = getattr(config, key), getattr(run, key)
            if "base" in changes and key == "model":
                yield f"{where} runs.{name}.model.base: one base serves all runs. Set model.base."
                continue
            whole = merged(section.model_dump(mode="json"), changes)
            yield from problems(type(section), whole, where, f"runs.{name}.{key}")


def _problems_of_names(config: Config, where: str) -> Iterator[str]:
    names = ", ".join(config.runs)
    for key in ("compare_with", "systems"):
        for name in getattr(config.report, key):
            if name not in config.baseline_names and name not in config.runs:
                yield (
                    f"{where} report.{key}: expected {', '.join(config.baseline_names)} or a name of runs ({names}), "
                    f"found {name!r}. Remove it or add the run."
                )
    yield from _problems_of_sweep(config, where)
    for name, entry in config.finetune.items():
        if entry.model != "base" and entry.model not in config.runs and "/" not in entry.model:
            yield (
                f"{where} finetune.{name}.model: expected base, a name of runs ({names}), or a folder with a / in it, "
                f"found {entry.model!r}. Name one."
            )
    if not config.main_runs:
        yield (
            f"{where} runs: expected at least one run that is no ablation, found none. "
            "Write final: {} (null takes a run away)."
        )
    for name in ("base", "untrained", *RULES):
        if name in config.runs:
            yield f"{where} runs.{name}: the name {name} means a baseline. Choose another name."


def _problems_of_sweep(config: Config, where: str) -> Iterator[str]:
    names = ", ".join(config.runs)
    if config.sweep.reference is not None and config.sweep.reference not in config.runs:
        yield f"{where} sweep.reference: expected a name of runs ({names}), found {config.sweep.reference!r}. Name one."
    for name in config.sweep.one_seed:
        if name not in config.runs:
            yield f"{where} sweep.one_seed: expected names of runs ({names}), found {name!r}. Set the list without it."


def _without_removed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a later file set to null (runs, fine-tunings, keys of ``model.base``): mappings are merged.

    A run that is taken away leaves ``sweep.one_seed`` too: lists are not merged.
    """
    out = dict(raw)
    sweep = out.get("sweep")
    if isinstance(sweep, dict) and isinstance(sweep.get("one_seed"), list) and isinstance(out.get("runs"), dict):
        removed = [name for name, run in out["runs"].items() if run is None]
        out["sweep"] = {**sweep, "one_seed": [name for name in sweep["one_seed"] if name not in removed]}
    for key in ("runs", "finetune"):
        if isinstance(out.get(key), dict):
            out[key] = {name: entry for name, entry in out[key].items() if entry is not None}
    if isinstance(out.get("model"), dict) and isinstance(out["model"].get("base"), dict):
        base = {key: value for key, value in out["model"]["base"].items() if value is not None}
        out["model"] = {**out["model"], "base": base}
    return out


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of ``config.yaml`` (kept in ``workflow/schemas``, used by editors)."""
    schema = Config.model_json_schema()
    for key in CHANGEABLE:
        section = f"{key.capitalize()}Settings"
        run = schema["$defs"]["RunSettings"]["properties"][key]
        partial = {k: v for k, v in schema["$defs"][section].items() if k not in ("required", "description")}
        schema["$defs"]["RunSettings"]["properties"][key] = {**partial, "description": run["description"]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
