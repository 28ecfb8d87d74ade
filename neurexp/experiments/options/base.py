"""The options of every experiment, and how options are checked. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neurexp.errors import UserError

if TYPE_CHECKING:
    from neurexp.report.finished import FinishedRun


@dataclass
class Options:
    """Options of every experiment; a subclass adds its own, and checks them in `check`."""

    controls: ClassVar[tuple[str, ...]] = ("off", "random")  # the values of experiment.control

    name: str
    plugin: str
    site: Any = "MLP"  # or a list of sites, each of which gets a report; an experiment sees one at a time
    layer: Any = "all"  # None: the model's own default
    control: str = "off"  # what the run is compared with, one of `controls`

    def check(self) -> None:
        """Raises UserError for a value that can never work, whatever the model and the text."""
        if self.control in self.controls:
            return
        why = ""
        if len(self.controls) == 1:
            why = f"{self.name} has no control; "
        elif self.control == "shuffled_text":
            why = f"{self.name} has rows of its own, and no running text whose words could be shuffled; "
        raise UserError(f"experiment.control={self.control}: {why}give {_either(self.controls)}")

    def check_source(self, run: "FinishedRun") -> None:
        """Raises UserError if the options ask of the finished run (the option `run`) what it does not have."""

    def check_range(self, least: float, most: float, *names: str) -> None:
        """Raises UserError unless each named option is a whole number from `least` to `most`."""
        for name in names:
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(f"experiment.{name}={value}: give a whole number from {least} to {most}")

    def check_one_of(self, name: str, known: Sequence[str]) -> None:
        """Raises UserError unless the named option is one of the known words."""
        if getattr(self, name) not in known:
            raise UserError(f"experiment.{name}={getattr(self, name)}: give one of {', '.join(known)}")

    def check_share(self, name: str) -> None:
        """Raises UserError unless the named option is a share from 0 to 1."""
        if not 0 <= getattr(self, name) <= 1:
            raise UserError(f"experiment.{name}={getattr(self, name):g}: give a share from 0 to 1")

    def check_one_site(self, does: str) -> None:
        """Raises UserError if several sites are given. `does`: what is done to the one, as in “edits”."""
        if not isinstance(self.site, str):
            raise UserError(f"{given('site', self.site)}: {self.name} {does} one site; give one, such as NEURON")


def given(name: str, value: Any) -> str:
    """An option of the experiment as on the command line, for messages."""
    return f"experiment.{name}={shown(value)}"


def shown(value: Any) -> str:
    """A value as on the command line."""
    return "null" if value is None else str(value).replace(" ", "").replace("'", "").replace("None", "null")


def is_pairs(value: Any) -> bool:
    """Whether an option's value is a list of pairs of whole numbers, `[[LAYER,NEURON],…]`, or an empty list."""
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and all(type(part) is int and part >= 0 for part in one)
        for one in value
    )


def _either(known: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
