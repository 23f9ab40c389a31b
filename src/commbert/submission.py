"""What a workflow was submitted with: jobs read configuration and code when they start, which may be hours later.

Without this check a job would follow the file as it is then, and the record of its result would hold it as it was.
"""

import os
from collections.abc import MutableMapping

from commbert.errors import SettingsError
from commbert.provenance import digest, stages_digest

SUBMITTED = "COMMBERT_SUBMITTED"
"""Digests of the configuration and of the code that the main process has read."""


def agree_on_submission(settings: str, *, is_main: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write down what the main process has read, or hold what a job has read against it.

    Args:
        settings: The whole configuration, defaults and overrides included.
        is_main: Whether this is the process that submits; what an earlier one wrote is overwritten.
        environment: Jobs get that of the main process; one that gets nothing of it is not checked.

    Raises:
        SettingsError: If a job finds another configuration, or other code.
    """
    here = {"config.yaml (or an overlay)": digest(settings), "the code of commbert": stages_digest()}
    if is_main:
        environment[SUBMITTED] = " ".join(here.values())
        return
    submitted = environment.get(SUBMITTED, " ".join(here.values())).split(" ")
    changed = [what for (what, now), then in zip(here.items(), submitted, strict=False) if now != then]
    if changed:
        raise SettingsError(
            f"{' and '.join(changed)} changed after this job was submitted. Stop the running snakemake and start it "
            "again: finished stages are kept."
        )
