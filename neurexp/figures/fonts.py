"""Fonts for texts in any script: an installed one that has the characters, or a box and a line in the log.

matplotlib's own font, DejaVu Sans, lacks Chinese, Japanese, Korean, the scripts of India and of South-East Asia, and
emoji. Knows nothing of what a text is about.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from functools import cache
from mmap import mmap

import regex
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry
from matplotlib.text import Text

log = logging.getLogger(__name__)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of a font that has no bold letters

BOX = "\u25af"
OWN = ("DejaVu Sans", "DejaVu Sans Mono")  # what figures are drawn with
SHOWN = 8  # characters that the log names
# These claim every character, draw nothing of their own, or draw in colours, which matplotlib cannot
_UNFIT = regex.compile(r"Last Resort|Color|NonUnicode|Adobe Blank|^cm[a-z]+\d+$")
_NOT_DRAWN = regex.compile(r"[\p{Default_Ignorable_Code_Point}]")  # joiners, signs that choose a form
_PACKAGES = (  # of Debian and Ubuntu
    (
        "fonts-noto-cjk",
        regex.compile(
            r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Bopomofo}"
            r"\p{Block=CJK_Symbols_And_Punctuation}\p{Block=Halfwidth_And_Fullwidth_Forms}]"
        ),
    ),
    ("fonts-symbola", regex.compile(r"\p{S}")),
    ("fonts-noto-core", regex.compile(r"\p{L}|\p{M}|\p{N}|\p{P}")),
)
_families: dict[str, tuple[str, ...]] = {}  # character → the families that have it, the best first
_told = mmap(-1, len(_PACKAGES))  # a byte for each package that the log has named, shared by forks that draw


@cache
def _own_has(character: str) -> bool:
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in OWN)
    return all(font.get_char_index(ord(character)) for font in fonts)


def _order(entry: FontEntry) -> tuple:
    """Plain fonts before slanted, light or bold ones, and those without serifs first."""
    plain = (entry.style != "normal", abs(int(entry.weight) - 400) if isinstance(entry.weight, int) else 500)
    return (entry.name != OWN[0], *plain, "Sans" not in entry.name, entry.name)


@cache
def _installed() -> list[FontEntry]:
    """Every font that can be used, those installed since matplotlib made its list included."""
    manager = font_manager.fontManager
    known = {str(entry.fname) for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                manager.addfont(path)
            except Exception:  # noqa: S112 (not a font that matplotlib can read)
                continue
    fit = [entry for entry in manager.ttflist if entry.size == "scalable" and not _UNFIT.search(entry.name)]
    return sorted(fit, key=_order)


def look_up(characters: Iterable[str]) -> None:
    """Finds the fonts of characters that the figures' own lack; each font is opened once for all of them."""
    new = {one for one in characters if one not in _families and not _own_has(one)}
    if not new:
        return
    found: dict[str, list[str]] = {one: [] for one in new}
    for entry in _installed():
        try:
            font = font_manager.get_font(entry.fname)
        except (OSError, RuntimeError):
            continue
        for one in new:
            if font.get_char_index(ord(one)) and entry.name not in found[one]:
                found[one].append(entry.name)
    _families.update({one: tuple(names) for one, names in found.items()})


def families(text: str) -> list[str]:
    """The fewest fonts that have the characters of a text which the figures' own lack, the one that has most first.

    Of equals the one goes first that has most of the characters of all texts so far: it was made for their script.
    """
    look_up(set(text) - {"\n"})
    missing = {one for one in text if _families.get(one)}
    if not missing:
        return []
    overall = Counter(name for names in _families.values() for name in names)
    place = {name: index for index, name in enumerate(dict.fromkeys(entry.name for entry in _installed()))}
    chosen: list[str] = []
    while missing:
        here = Counter(name for one in missing for name in _families[one])
        chosen.append(min(here, key=lambda name: (-here[name], -overall[name], place[name])))
        missing = {one for one in missing if chosen[-1] not in _families[one]}
    return chosen


def drawable(text: str) -> str:
    """The text with a box for each character that no installed font has; what is not drawn anyway is left out."""
    look_up(set(text) - {"\n"})
    return "".join(_instead(one) if _families.get(one) == () else one for one in text)


def _instead(character: str) -> str:
    return "" if _NOT_DRAWN.match(character) else BOX


def tell(characters: Iterable[str]) -> None:
    """Says in the log which of these no installed font has, and what brings one: once for each package."""
    lacking = {one for one in characters if _families.get(one) == () and _instead(one)}
    for place, (package, of) in enumerate(_PACKAGES):
        these = sorted(one for one in lacking if of.match(one))
        lacking.difference_update(these)
        if these and not _told[place]:
            _told[place] = True
            named = " ".join(these[:SHOWN]) + (" …" if len(these) > SHOWN else "")
            log.warning(
                "Figures: no installed font has %s: boxes stand there; on Debian: apt-get install %s", named, package
            )


def fit(texts: Iterable[Text]) -> None:
    """Gives texts of a figure the fonts that have their characters, and boxes for those that none has."""
    texts = list(texts)
    characters = {one for text in texts for one in text.get_text()} - {"\n"}
    look_up(characters)
    tell(characters)
    for text in texts:
        more = families(text.get_text())
        if more:
            text.set_fontfamily([*text.get_fontfamily(), *more])
        text.set_text(drawable(text.get_text()))
