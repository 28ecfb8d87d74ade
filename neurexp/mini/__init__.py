"""The embedded model: a folder that `from_pretrained` loads, its card and token counts, and what trained it."""

__all__ = ()
