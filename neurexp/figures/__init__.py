"""Figures room: arrays in, matplotlib figures out. Knows no model and no text; draws without a display."""
