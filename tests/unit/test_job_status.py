"""The profile generic asks Slurm for a job's state by a script."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflow/profiles/generic/status.sh"


def status(folder: Path, **commands: str) -> str:
    """Return what the script says where these commands come first."""
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPT, "7"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("COMPLETED", "success"),
        ("TIMEOUT", "failed"),
        ("CANCELLED", "failed"),
        ("PREEMPTED", "failed"),
        ("PENDING", "running"),
    ],
)
def test_a_state_of_slurm_is_told_in_the_words_that_snakemake_expects(tmp_path: Path, state: str, said: str) -> None:
    assert status(tmp_path, scontrol=f"echo JobId=7 JobState={state} Reason=None") == said


def test_a_job_that_the_controller_forgot_is_asked_for_in_the_accounts(tmp_path: Path) -> None:
    assert status(tmp_path, scontrol="exit 1", sacct="echo 'CANCELLED by 0'") == "failed"


def test_a_slurm_that_does_not_answer_has_lost_no_job_and_stops_nothing(tmp_path: Path) -> None:
    hurried = 'shift; exec "$(PATH=/usr/bin:/bin command -v timeout)" 0.2 "$@"'
    assert status(tmp_path, timeout=hurried, scontrol="exec sleep 600", sacct="exec sleep 600") == "running"
