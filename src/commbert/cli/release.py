"""The stage that makes a folder to be given to others."""

from typing import Any

from commbert.cli.options import In, Log, Out, Usage, app, run_stage


@app.command()
def release(model: In, evaluation: In, card: In, out: Out, log: Log = None, usage: Usage = None) -> None:
    """Copy a run's model with the card that has its figures: the folder to be given to others."""

    def work() -> Any:
        from commbert.stages import release as stage

        return stage.run(model=model, evaluation=evaluation, card=card, out=out)

    run_stage("release", log, usage, work)
