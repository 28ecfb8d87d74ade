"""`tracking.figures`: which formats it means, and the files that each figure becomes."""

import pytest

from neurexp.cli import as_hydra_takes
from neurexp.config.schema import figure_formats
from neurexp.errors import UserError
from neurexp.figures.style import new_figure, set_title
from neurexp.report.drawing import write_figures
from neurexp.report.report import Report

FIRST_BYTES = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize(
    ("value", "formats"),
    [("png", ["png"]), ("PNG, pdf", ["png", "pdf"]), (["svg", "pdf", "svg"], ["svg", "pdf"]), (["png"], ["png"])],
)
def test_formats_are_a_list_or_a_text(value, formats):
    assert figure_formats(value) == formats


@pytest.mark.parametrize(("value", "given"), [("jpg", "jpg"), ([], ""), (["png", 3], "png,3"), (None, "None")])
def test_a_wrong_format_is_one_clear_line(value, given):
    with pytest.raises(UserError) as error:
        figure_formats(value)
    assert str(error.value) == f"tracking.figures={given}: give png, pdf, svg, or several with commas between"


def test_commas_are_no_sweep():
    assert as_hydra_takes(["tracking.figures=png,pdf", "tracking.figures=png", "run.seed=0,1"]) == [
        "tracking.figures=[png,pdf]", "tracking.figures=png", "run.seed=0,1",
    ]  # fmt: skip


def drawn():
    figure = new_figure(3, 2)
    figure.add_subplot().plot([0, 1], [0, -1])
    set_title(figure, "A finding", "measured on this")
    return figure


def test_a_figure_is_drawn_once_and_written_in_each_format(tmp_path):
    calls = []
    report = Report([], {}, {}, {}, {}, "", figures={"one": lambda: (calls.append(1), drawn())[1]})
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_figures(folder, report, ("png", "pdf", "svg"))
    assert len(calls) == 2
    for ending, start in FIRST_BYTES.items():
        first, again = (path.read_bytes() for path in sorted(tmp_path.glob(f"?/figures/one.{ending}")))
        assert first.startswith(start)
        assert first == again  # no time of day within
    assert len(list((tmp_path / "a" / "figures").iterdir())) == 3
