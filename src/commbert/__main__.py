"""``python -m commbert`` is the ``commbert`` command."""

from commbert.cli import main

if __name__ == "__main__":
    main()
