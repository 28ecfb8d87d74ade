"""The benchmark: how long the whole of `token_length` takes beside the plain forward pass."""

from neurexp.experiments.benchmark.experiment import Benchmark, Options

__all__ = ["Benchmark", "Options"]
