"""Settings of the sweep: which runs its table compares."""

from typing import Annotated

from pydantic import Field, model_validator

from commbert.settings.base import Name, Section, Seed


class SweepSettings(Section):
    """What ``snakemake sweep`` trains and measures, always on the validation split."""

    reference: Name | None = None
    """The run that all others are compared with; null = the first one."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (17, 18, 19)
    """Seeds of training: every run of the table is trained with each, but those of ``one_seed``."""
    one_seed: tuple[Name, ...] = ()
    """Runs of the table that are trained with the first seed only; the reference always has all."""
    averages: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Shares of the start weights (``model.average_with_base``) of the reference run's curve."""

    @model_validator(mode="after")
    def _no_seed_twice(self) -> "SweepSettings":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed stands twice")
        return self
