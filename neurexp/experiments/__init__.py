"""Experiments room: a question is one file here and one config; the engine, statistics and tracking serve it."""
