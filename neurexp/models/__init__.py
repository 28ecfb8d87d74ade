"""Models room: a config in, a language model on a device out, and where its neurons live."""
