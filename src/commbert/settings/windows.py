"""Settings of the stage ``windows``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commbert.settings.base import Section, Seed


class WindowsSettings(Section):
    """The rows of the masked language model: a line and its neighbours, or whole files."""

    unit: Literal["line", "file"] = "line"
    """``line``: a line and its neighbours (the reference method); ``file``: each file, or row of a table, from its
    first token to its last, cut into windows of about equal length where it is longer than ``max_length``, so that
    nothing is dropped and no token stands in two windows. The settings of lines and strides are for ``line``."""
    lines_before: Annotated[int, Field(ge=0, le=64)] = 3
    """Lines before the centre line."""
    lines_after: Annotated[int, Field(ge=0, le=64)] = 3
    """Lines after the centre line."""
    stride: Annotated[int, Field(ge=1, le=1024)] = 1
    """Lines from one centre to the next; 1 = every line is a centre (the reference method)."""
    max_length: Annotated[int, Field(ge=8, le=512)] = 128
    """Tokens of a window at most, [CLS] and [SEP] counted; lines are dropped from the far ends, never the centre."""
    max_windows: Annotated[int, Field(ge=1)] | None = None
    """Keep this many windows of the training split, drawn evenly with ``seed``; null = all."""
    heldout_stride: Annotated[int, Field(ge=1, le=1024)] = 7
    """Stride in the held-out splits; 7 = no line stands in two windows, so that their errors are independent."""
    seed: Seed = 17
    """Draws the windows when ``max_windows`` cuts them."""

    @model_validator(mode="after")
    def _whole_files_are_all_kept(self) -> Self:
        if self.unit == "file" and self.max_windows is not None:
            raise ValueError("max_windows is for unit: line; of whole files all windows are kept. Set it to null")
        return self
