"""Text room: a config in, packed token sequences out."""
