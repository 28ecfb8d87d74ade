"""A finished run, opened from Python: `neurexp.open_run("outputs/…").neuron(15, 276)` shows a neuron's card."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neurexp.pages.card import Card, card_of
from neurexp.pages.subject import Subject, read
from neurexp.report.finished import FinishedRun
from neurexp.runs.compare import read_run


@dataclass(frozen=True)
class Run:
    """A finished run."""

    finished: FinishedRun

    @property
    def title(self) -> str:
        """The model and the text."""
        return self.finished.summary["setting"]

    def neuron(self, layer: int, index: int, site: str | None = None) -> Card:
        """What the run knows of one neuron. A notebook shows it; `.figure()` draws it.

        Args:
            layer: block index, from 0.
            index: of the neuron.
            site: of the neuron, in a run of several sites.

        Raises:
            UserError: the run has no contexts (it is none of experiment=top_contexts), or no such neuron or site.
        """
        subject = self._subjects.get(site) or read(self.finished.folder, site, self.finished.given)
        self._subjects[site] = subject
        sites = self.finished.sites if site is None else (site,)
        return card_of(subject, ", ".join((self.title, *sites)), layer, index)

    @cached_property
    def _subjects(self) -> dict[str | None, Subject]:
        return {}


def open_run(run: str | Path, uri: str | None = None, outputs: str | Path = "outputs") -> Run:
    """Opens a finished run.

    Args:
        run: its folder, or its id in MLflow.
        uri: of the MLflow store; MLFLOW_TRACKING_URI, or the one in `outputs`, if not given.
        outputs: the folder of all outputs.

    Raises:
        UserError: neither a finished run's folder nor a run id.
    """
    return Run(read_run(str(run), uri, Path(outputs)))
