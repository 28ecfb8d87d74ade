"""One job of a sweep, as the sweep's folder notes it. Knows neither files nor MLflow."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """What the sweep's folder says of one job."""

    number: int
    folder: str  # relative to the sweep's
    overrides: list[str]
    options: dict[str, str]  # everything that its results depend on
    error: str | None = None
    current: bool = True  # it belongs to the latest start of the sweep
    run: dict[str, Any] = field(default_factory=dict)  # its summary, once it is read

    @property
    def chosen(self) -> dict[str, str]:
        """The overrides as option → value, or group → choice."""
        pairs = (bare(text).partition("=") for text in self.overrides)
        return {name.partition("@")[0]: value for name, _, value in pairs}

    def value(self, name: str) -> str:
        """The value of an option, or the choice of a group; `null` if it has no value."""
        return self.options.get(name) or self.chosen.get(name) or "null"


def bare(override: str) -> str:
    """The override without a leading `+` or `~`."""
    return override.lstrip("+~")


@dataclass(frozen=True)
class Membership:
    """Which job of a sweep a run is."""

    folder: Path  # of the sweep
    number: int
    varied: tuple[str, ...]  # the overrides in which the sweep's jobs differ

    @property
    def label(self) -> str:
        """What distinguishes the run from the sweep's other runs."""
        return ", ".join(self.varied)[:200]

    def varies(self, option: str) -> bool:
        """Whether the sweep's jobs differ in an option."""
        return any(bare(text).partition("=")[0] == option for text in self.varied)
