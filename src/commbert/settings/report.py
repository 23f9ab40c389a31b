"""Settings of the stage ``report``."""

from typing import Annotated

from pydantic import Field, model_validator

from commbert.settings.base import Name, Section

Watts = Annotated[float, Field(ge=0.0, le=100_000.0)]


class IdlePower(Section):
    """Power that the machine draws without this work; what a stage is charged with is what it draws above that."""

    gpu: Watts | None = None
    """Of one GPU (W), as ``nvidia-smi`` shows it on the idle machine; null = unknown, nothing is taken off."""
    cpu: Watts | None = None
    """Of all CPU packages (W), as ``turbostat`` shows it on the idle machine; null = unknown, nothing is taken off."""


class CostSettings(Section):
    """What a kilowatt-hour costs. The defaults are averages: set those of your own contract and site."""

    price_per_kwh: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.20
    """Price of a kilowatt-hour, in ``currency``. The default is a round figure of the size of what enterprises in the
    European Union pay (Eurostat, table nrg_pc_205); it stands for no contract."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    """Currency of the price, three letters (ISO 4217); nothing is converted."""
    co2_g_per_kwh: Annotated[float, Field(ge=0.0, le=5000.0)] = 481.0
    """CO2 equivalents of a kilowatt-hour (g). The default is the world's average of 2023 (Ember, 2024); national grids
    lie between about 30 and 800."""
    pue: Annotated[float, Field(ge=1.0, le=5.0)] = 1.56
    """Power usage effectiveness: energy of the whole site per energy of its computers. The default is the average of
    the Uptime Institute's global survey of data centres of 2024; 1.0 for a computer under a desk."""
    idle_power_w: IdlePower = IdlePower()
    """What the idle machine draws."""


class ReportSettings(Section):
    """What the report compares."""

    compare_with: tuple[Name, ...] = ("base",)
    """Columns beside the run: ``base`` (the untouched base model) or names of other runs."""
    systems: tuple[Name, ...] = ("frequency", "char_ngrams", "ppmi_svd")
    """Further rows of the table of systems: ``frequency``, ``char_ngrams``, ``ppmi_svd``, or names of other runs."""

    cost: CostSettings = CostSettings()
    """What the measured energy is multiplied by."""

    @model_validator(mode="after")
    def _no_column_twice(self) -> "ReportSettings":
        if len({*self.compare_with, *self.systems}) != len(self.compare_with) + len(self.systems):
            raise ValueError("a column or system stands twice")
        return self

    @property
    def beside(self) -> tuple[Name, ...]:
        """All that a run is compared with, columns first."""
        return (*self.compare_with, *self.systems)
