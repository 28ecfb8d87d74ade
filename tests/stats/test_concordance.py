"""Concordance of two samples' findings, by hand."""

import numpy as np
import pytest

from neurexp.stats import hypothesis_tests
from neurexp.stats.concordance import concordance, findings, independent


def test_the_shares_are_counts_and_opposite_signs_do_not_agree():
    first, second = np.array([1, -1, 0, 1, 0]), np.array([1, 1, 0, 0, -1])
    found = concordance(first, second)
    assert [found.concordance, found.both, found.overlap] == pytest.approx([2 / 5, 1 / 5, 1 / 4])
    by_chance = independent(first, second)
    both, neither = (2 * 2 + 1 * 1) / 25, 2 * 2 / 25
    expected = [both + neither, both, both / (1 - neither)]
    assert [by_chance.concordance, by_chance.both, by_chance.overlap] == pytest.approx(expected)


def test_without_any_finding_there_is_no_overlap():
    none = findings(hypothesis_tests.TestResult(np.array([3.0, np.nan, -9.0]), np.array([0.2, 1.0, 0.05])), 0.05)
    assert none.tolist() == [0, 0, 0]
    found = concordance(none, none)
    assert (found.concordance, found.both) == (1, 0)
    assert np.isnan(found.overlap)
    assert findings(hypothesis_tests.TestResult(np.array([3.0, -9.0]), np.array([0.01, 0.02])), 0.05).tolist() == [
        1,
        -1,
    ]
