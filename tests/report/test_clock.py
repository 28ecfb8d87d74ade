from neurexp.report.clock import Stopwatch


def test_a_part_of_a_stage_can_be_told_apart():
    clock = Stopwatch()
    clock.stages["capture"] = 5.0
    clock.move(0.0, "capture", "checkpoints")
    assert "checkpoints" not in clock.seconds()
    clock.move(0.5, "capture", "checkpoints")
    clock.move(0.25, "capture", "checkpoints")
    seconds = clock.seconds()
    assert (seconds["capture"], seconds["checkpoints"]) == (4.25, 0.75)
