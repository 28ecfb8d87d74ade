"""The typed config, its checks, and one line for each mistake in it. Imports nothing heavy."""
