"""Settings of the stage ``finetune``: a labelled table, and how a model is taught to label like it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commbert.settings.base import Fraction, Section, Seed, Sha256

Share = Annotated[float, Field(ge=0.01, le=0.9)]
Column = Annotated[str, Field(min_length=1, max_length=200)]

METRICS = {
    "classification": ("macro_f1", "accuracy", "weighted_f1", "loss"),
    "scoring": ("mae", "rmse", "spearman", "loss"),
}
"""What may choose the best model, by task; the first one is the default."""


class FinetuneSplitSettings(Section):
    """Which rows train, choose the best model, and measure it."""

    column: Column | None = None
    """Column that says train, validation or test for each row; null = rows are drawn by the shares below, of each class
    alike. Rows made from the same template or by the same author belong into one split: only a column can say so."""
    validation: Share = 0.1
    """Share of the rows that choose ``best`` (of the training rows where ``column`` names no validation rows)."""
    test: Share = 0.1
    """Share of the rows that the reported figures come from; not read where ``column`` is set."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.validation + self.test > 0.9:
            raise ValueError(
                f"expected at most 0.9 for validation and test together, found {self.validation + self.test:g}"
            )
        return self


class FinetuneSettings(Section):
    """How a table is read, and how a model is taught by it."""

    sha256: Sha256 | None = None
    """Of the table's file; null = whatever it holds. Its digest stands in the result either way."""
    text: Column = "text"
    """Column of the text."""
    label: Column = "label"
    """Column of the class (any text) or of the score (a number)."""
    task: Literal["classification", "scoring"] = "classification"
    """classification = one of the classes that the column holds; scoring = a number, by least squares. Scores of 1 to 5
    may be either: as classes their order means nothing."""
    split: FinetuneSplitSettings = FinetuneSplitSettings()
    """Which rows train, choose and measure."""
    unknown_labels: Literal["refuse", "skip"] = "refuse"
    """What is done when validation or test rows have a class that no training row has, which nothing could predict:
    stop and name them, or leave the rows out and count them."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    """Passes over the training rows at most; validation and checkpoint at the end of each."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rows of a step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0e-4
    """Of encoder and head, at the end of the warm-up."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of matrices only: biases and LayerNorm have none."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning rate after the warm-up."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """Longer gradients are scaled down to it."""
    max_length: Annotated[int, Field(ge=8, le=512)] = 128
    """Tokens of a text with [CLS] and [SEP]; longer ones are cut at the end, and counted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced = the loss of a row counts by the inverse of its class's frequency (King and Zeng 2001)."""
    best_metric: Literal["macro_f1", "accuracy", "weighted_f1", "loss", "mae", "rmse", "spearman"] | None = None
    """What chooses ``best`` on the validation rows; null = macro_f1, for scores mae."""
    patience: Annotated[int, Field(ge=1, le=1000)] | None = 3
    """Epochs without gain before stopping; null = never."""
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """Of the metric; less is no gain for ``patience``."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto = bf16 on GPUs that have it, else fp32."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples of the test rows for the 95 % intervals."""
    seed: Seed = 17
    """Draws the split, the head's first weights, the order of the rows and dropout."""

    @property
    def metric(self) -> str:
        """Return the name of the metric that chooses ``best``."""
        return self.best_metric or METRICS[self.task][0]

    @model_validator(mode="after")
    def _has_a_metric_of_its_task(self) -> Self:
        if self.metric not in METRICS[self.task]:
            raise ValueError(
                f"best_metric: expected one of {', '.join(METRICS[self.task])} for {self.task}, found {self.metric}"
            )
        if self.task == "scoring" and self.class_weights != "none":
            raise ValueError("class_weights: scores have no classes; expected none")
        return self


class FinetuneEntry(FinetuneSettings):
    """One entry of the section ``finetune``: a table, a model, and how the one is taught by the other."""

    table: Annotated[str, Field(min_length=1, max_length=4000)]
    """CSV or TSV file with a header; named from the workflow's folder."""
    model: Annotated[str, Field(min_length=1, max_length=4000)] = "base"
    """Encoder to start from: base, a name of ``runs`` (its final model), or a folder (with a / in it)."""

    def of_stage(self) -> FinetuneSettings:
        """Return what the stage is told: all but the paths, which change no result."""
        return FinetuneSettings.model_validate(self.model_dump(exclude={"table", "model"}))
