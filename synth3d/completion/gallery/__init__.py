"""What of a completed cohort is to be looked at: a picture a case, and a page of all."""

from synth3d.completion.gallery.index import write_index
from synth3d.completion.gallery.preview import (
    draw_done,
    draw_missing_preview,
    forget_preview,
    write_preview,
)

__all__ = ["draw_done", "draw_missing_preview", "forget_preview", "write_index", "write_preview"]
