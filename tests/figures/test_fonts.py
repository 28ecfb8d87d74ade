"""Texts of figures in any script: in a font that has it, or in boxes with a line in the log."""

import io
import logging
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from neurexp.figures import fonts
from neurexp.figures.heat import heat_map
from neurexp.figures.style import new_figure, set_title


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Without what earlier tests have looked up and told, and without the fonts of this machine."""
    monkeypatch.setattr(fonts, "_families", {})
    monkeypatch.setattr(fonts, "_told", bytearray(len(fonts._PACKAGES)))
    bundled = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in str(entry.fname)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", bundled)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    fonts._installed.cache_clear()
    yield
    fonts._installed.cache_clear()


def only_in_stix() -> str:
    """A letter or sign that STIXGeneral, which comes with matplotlib, has and DejaVu has not."""
    stix, sans = (font_manager.get_font(font_manager.findfont(name)) for name in ("STIXGeneral", fonts.OWN[0]))
    return next(chr(code) for code in sorted(stix.get_charmap()) if code > 0x200 and not sans.get_char_index(code))


def drawn(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png")  # a glyph that is missing would be a warning, and so an error


def test_a_character_is_drawn_in_an_installed_font_that_has_it(caplog):
    character = only_in_stix()
    figure = new_figure(5, 3)
    figure.add_subplot().text(0, 0, f"a {character}", family="monospace")
    set_title(figure, f"About {character}", "plain")
    drawn(figure)
    assert figure.get_suptitle() == f"About {character}"
    (text,) = figure.axes[0].texts
    assert text.get_text() == f"a {character}"
    assert text.get_fontfamily() == ["monospace", "STIXGeneral"]
    assert figure._supxlabel.get_fontfamily() == ["sans-serif"]
    assert not caplog.records


def test_what_no_font_has_is_a_box_and_said_once_with_what_brings_a_font(caplog):
    for _ in range(2):
        figure = new_figure(5, 3)
        figure.add_subplot().set_xlabel("क and ก and 👩")
        set_title(figure, "猫 and 狗", "detail")
        drawn(figure)
        assert figure.get_suptitle() == f"{fonts.BOX} and {fonts.BOX}"
    assert sorted(caplog.messages) == [
        f"Figures: no installed font has {named}: boxes stand there; on Debian: apt-get install {package}"
        for named, package in (
            ("क ก", "fonts-noto-core"),
            ("狗 猫", "fonts-noto-cjk"),
            ("👩", "fonts-symbola"),
        )
    ]


def test_signs_that_draw_nothing_are_left_out_and_not_said(caplog):
    for invisible in ("\ufe0f", "\U000e0067", "\u2065"):
        assert fonts.drawable(f"a{invisible}b") in ("ab", f"a{invisible}b")
    fonts.tell("\ufe0f\u2065")
    assert not caplog.records


def test_the_font_that_has_most_of_a_text_goes_first(monkeypatch):
    known = [SimpleNamespace(name=name) for name in "ABC"]
    monkeypatch.setattr(fonts, "_installed", cache(lambda: known))
    fonts._families.update({"猫": ("A", "B"), "狗": ("B",), "。": ("A", "B", "C")})
    assert fonts.families("猫狗。") == ["B"]
    assert fonts.families("。") == ["B"]  # of all texts it has most
    assert fonts.families("plain") == []


def test_a_font_installed_after_matplotlib_made_its_list_is_found(monkeypatch):
    stix = [one for one in font_manager.fontManager.ttflist if one.name == "STIXGeneral"]
    character = only_in_stix()
    others = [one for one in font_manager.fontManager.ttflist if one.name != "STIXGeneral"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", others)
    assert fonts.drawable(character) in (fonts.BOX, character)
    fonts._families.clear()
    fonts._installed.cache_clear()
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(one.fname) for one in stix] + ["/no/font.ttf"])
    assert "STIXGeneral" in fonts.families(character)
    assert fonts.drawable(character) == character


def test_matplotlib_says_nothing_of_weights_that_a_font_lacks(caplog):
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.WARNING)


def test_a_heat_map_of_many_scripts_brings_no_warning():
    tokens = ["猫", " देव", "👩‍💻", "❤️", " שלום", " سلام", "ไทย", "한국", "e\u0301", "\u200d", "\U0001fae8"]
    places = np.arange(len(tokens))
    drawn(heat_map([("名词", tokens, places.astype(float), places % 3 - 1)], ["动词", "名词"], "标题", "detail"))
