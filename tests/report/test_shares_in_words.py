"""Shares in sentences."""

import pytest

from neurexp.report.words import percent


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.0015, 0, "0.15%"), (0.0471, 0, "4.7%"), (0.43, 0, "43%"), (1, 0, "100%"), (0, 0, "0%"),
        (0.00042, 1, "0.042%"), (0.4321, 1, "43.2%"), (0, 1, "0.0%"),
    ],
)  # fmt: skip
def test_a_small_share_keeps_two_digits(share, decimals, text):
    assert percent(share, decimals) == text
