"""What all figures share: colours that the colour-blind and a grey print tell apart, sizes, title and foot."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's orange, grey-black and blue: of different lightness, and each with a line style of its own.
GROUP_STYLES = (
    {"color": "#E69F00", "linestyle": "-"},
    {"color": "#555555", "linestyle": ":"},
    {"color": "#0072B2", "linestyle": "--"},
)


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` × `height` inches that keeps its parts from overlapping."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def set_title(figure: Figure, finding: str, detail: str) -> None:
    """The finding as the title, what it was measured on at the foot, both wrapped to the figure's width."""
    width = int(figure.get_figwidth() * 11)
    figure.suptitle(textwrap.fill(finding, width), fontsize=11, fontweight="bold")
    figure.supxlabel(textwrap.fill(detail, int(width * 1.3)), fontsize=8, color="#333333")


def bare(axes: Axes) -> None:
    """Takes away the frame that carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
