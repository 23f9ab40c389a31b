"""Every setting with its default, unit and range; one module per section.

A stage imports only the module of its own section, so that a change in one section's code leaves the digests of the
other stages alone. ``commbert.settings.config`` puts the sections together.
"""
