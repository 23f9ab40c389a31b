"""Settings that change how a run goes, never what comes out; they stand in no digest and rerun nothing."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from commbert.settings.base import Section


class RuntimeSettings(Section):
    """Where and how stages run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto``: CUDA, else MPS, else CPU."""
    processes: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Training processes of each machine; ``auto``: one per GPU, one on a machine without."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Machines that a training asks the cluster for; ``processes`` is for each. More than one need a Slurm job."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of each machine that a training asks the cluster for; local runs use what is there."""
    restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """How often the processes of a training are started again, from the last checkpoint, when one of several dies."""
    lock_wait_s: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Seconds that a training waits for another one which writes the same checkpoints; ``auto``: in a Slurm job for as
    long as it takes (a job outlives the Snakemake that submitted it), else 30."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 64
    """Most CPU threads of a training or evaluation job; Snakemake lowers it to ``--cores``."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    """Complete checkpoints that are kept."""
    log_every_steps: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Steps between two looks at what the device has computed (every step has its row in metrics.jsonl all the same);
    ``auto``: 1 on CPU, 20 on a GPU, which would have to wait."""
    cpu_products: Literal["auto", "onednn", "torch"] = "auto"
    """Who makes matrix products on a CPU; ``auto``: oneDNN on AMD, where MKL is half as fast, else what torch takes. It
    changes the rounding, so checkpoints of one are not resumed by the other."""
    strategy: Literal["auto", "single", "ddp", "zero1", "fsdp"] = "auto"
    """What processes share: ddp = nothing, each has all; zero1 = the optimizer's state; fsdp = weights and gradients
    too; ``auto``: single or ddp, and fsdp where a GPU could not hold the training's state."""
    gradient_checkpointing: bool = False
    """Compute each layer again in backward instead of keeping its inside: less memory, a third more work."""
    compile: bool = False
    """Compile the layers with torch.compile: for GPUs; on CPU it needs a C++ compiler and minutes at the start."""
    checksum_every_steps: Annotated[int, Field(ge=1)] = 100
    """Steps between two comparisons of the processes' weights, bit by bit."""
    tensorboard: bool = False
    """Write the record of a training as TensorBoard event files too, into results/runs/RUN/tensorboard; needs the extra
    ``tensorboard``."""
    mlflow_uri: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """Send the record of a training to this MLflow server too (http://HOST:PORT); needs the extra ``mlflow``. Name and
    password go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    fetch_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds until a download is given up."""
    monitor_every_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Seconds between two samples of GPUs, processes and node beside every stage."""

    @field_validator("mlflow_uri")
    @classmethod
    def _is_public(cls, uri: str | None) -> str | None:
        """Refuse a password: settings are printed in reports."""
        if uri is not None and "@" in uri:
            raise ValueError("expected no user and password in it; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead.")
        return uri
