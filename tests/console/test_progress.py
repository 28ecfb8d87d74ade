"""Long work: what is said of it, once, and when."""

import logging

import pytest

from neurexp.console import progress
from neurexp.console.progress import Progress, over, told


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "neurexp.console.progress"]


def test_the_time_to_go_follows_from_what_is_done_and_is_said_once(clock, caplog):
    with caplog.at_level(logging.INFO), Progress("Analysis", 8.0, "8 layers") as work:
        clock[0] += 5
        work.tick(2.0)
        clock[0] += 5
        work.tick(2.0)
    assert said(caplog) == ["Analysis: about 15 s to go (8 layers)"]


def test_short_work_is_not_announced(clock, caplog):
    with caplog.at_level(logging.INFO):
        for _ in over(range(20), "Analysis"):
            clock[0] += 0.5
    assert said(caplog) == []


def test_a_pace_is_not_taken_from_the_first_moments(clock, caplog):
    with caplog.at_level(logging.INFO), Progress("Analysis", 1000.0) as work:
        clock[0] += 0.4
        work.tick(1.0)
        assert said(caplog) == []
        clock[0] += 0.2
        work.tick(9.0)
    assert said(caplog) == ["Analysis: about 59 s to go"]


def test_a_part_is_told_in_shares_and_more_than_all_is_all(clock, caplog):
    with caplog.at_level(logging.INFO), Progress("Analysis", 100.0) as work:
        half = work.part(50.0)
        clock[0] += 30
        half(0.5)
        work.tick(1000)
    assert said(caplog) == ["Analysis: about 90 s to go"]


@pytest.mark.parametrize(("seconds", "words"), [(14.4, "14 s"), (119, "119 s"), (150, "2 min"), (7300, "2.0 h")])
def test_durations_are_told_as_people_do(seconds, words):
    assert told(seconds) == words


def test_items_come_in_their_order_and_an_error_passes_through(caplog):
    assert list(over(iter("abc"), "Work")) == ["a", "b", "c"]
    with pytest.raises(KeyboardInterrupt):
        for _ in over("abc", "Work"):
            raise KeyboardInterrupt
