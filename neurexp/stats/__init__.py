"""Statistics room: arrays in, arrays out. Knows no model and no text."""
