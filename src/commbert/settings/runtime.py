"""Settings that change how a run goes, never what comes out; they stand in no digest and rerun nothing."""

from typing import Annotated, Literal

from pydantic import Field

from commbert.settings.base import Section


class RuntimeSettings(Section):
    """Where and how stages run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto``: CUDA, else MPS, else CPU."""
    processes: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Training processes; ``auto``: one per GPU, one on a machine without."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 64
    """Most CPU threads of a training or evaluation job; Snakemake lowers it to ``--cores``."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    """Complete checkpoints that are kept."""
    log_every_steps: Annotated[int, Field(ge=1)] = 1
    """Steps between two rows of metrics.jsonl."""
    fetch_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds until a download is given up."""
