"""The processors of this process: those it may run on, and its container's share."""

import os

import pytest

from neurexp.console.processors import processors


@pytest.fixture
def container(tmp_path, monkeypatch):
    """`container(files)`: a process that may run on eight processors, in a container whose files say this."""

    def made(files: dict[str, str]) -> int:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
        return processors()

    monkeypatch.setattr("neurexp.console.processors.GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return made


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_quota_of_version_2(container, quota, expected):
    assert container({"cpu.max": f"{quota}\n"}) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("1000", 1)])
def test_a_quota_of_version_1(container, quota, expected):
    assert container({"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}) == expected


@pytest.mark.parametrize("files", [{}, {"cpu.max": "gibberish"}, {"cpu.max": "x y"}, {"cpu/cpu.cfs_quota_us": "5"}])
def test_without_a_quota_that_can_be_read_it_is_what_it_may_run_on(container, files):
    assert container(files) == 8


def test_a_system_that_does_not_say_where_a_process_may_run(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1
