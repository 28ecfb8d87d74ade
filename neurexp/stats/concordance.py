"""Concordance: do two samples find the same neurons? Shares of neurons, and what chance gives. Float64.

A neuron's *finding* in a sample is 1 or −1, the sign of its t, if it is significant, and 0 if it is not. Knows no word
and no model.
"""

from dataclasses import dataclass

import numpy as np

from neurexp.stats.hypothesis_tests import TestResult


@dataclass(frozen=True)
class Agreement:
    """Shares of neurons."""

    concordance: float  # with the same finding in both samples, no finding included
    both: float  # significant in both samples with the same sign
    overlap: float  # `both`, of the neurons that are significant in either; NaN if none is


def findings(tested: TestResult, level: float) -> np.ndarray:
    """The finding of each neuron at the level `level`, `[…, neurons]` int8."""
    return (np.sign(np.nan_to_num(tested.statistic)) * (tested.p < level)).astype(np.int8)


def concordance(first: np.ndarray, second: np.ndarray) -> Agreement:
    """How far the findings `[neurons]` of two samples agree."""
    either = ((first != 0) | (second != 0)).mean()
    both = ((first == second) & (first != 0)).mean()
    return Agreement(float((first == second).mean()), float(both), float(both / either) if either else float("nan"))


def independent(first: np.ndarray, second: np.ndarray) -> Agreement:
    """What is expected if the samples had nothing to do with each other, each with as many findings of each sign."""
    shares = {sign: ((first == sign).mean(), (second == sign).mean()) for sign in (-1, 0, 1)}
    expected = {sign: float(a * b) for sign, (a, b) in shares.items()}
    both, either = expected[1] + expected[-1], 1 - expected[0]
    return Agreement(both + expected[0], both, both / either if either else float("nan"))
