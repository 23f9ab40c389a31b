"""``python -m commbert`` is the ``commbert`` command."""

import os
import signal

from commbert.training.stopping import SIGNALS

if "COMMBERT_HEAD_PORT" in os.environ:
    # An agent of a training on several machines: while it imports the rest, which takes a second, a wish to stop waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

from commbert.cli import main

if __name__ == "__main__":
    main()
