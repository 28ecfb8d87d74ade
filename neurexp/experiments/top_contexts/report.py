"""The report of top contexts: its tables, metrics, sentences, tensors and figures, put together. Computes nothing."""

from collections.abc import Callable
from pathlib import Path

from neurexp.experiments.top_contexts import tables
from neurexp.experiments.top_contexts.analysis import analyse
from neurexp.experiments.top_contexts.columns import columns_of
from neurexp.experiments.top_contexts.data import TopContextsData
from neurexp.experiments.top_contexts.figures import Figures
from neurexp.experiments.top_contexts.findings import findings_of, shares_of
from neurexp.experiments.top_contexts.winners import findings_of as findings_of_winners
from neurexp.report.report import Report

PAGES = "pages"


def write(data: TopContextsData) -> Report:
    """Analyses every layer and says what was found."""
    analysis = analyse(data)
    contexts, direct = tables.contexts_of(data), tables.direct_of(data)
    tensors = tables.tensors_of(data, contexts)
    further = {"contexts": contexts, "vocabulary": tables.vocabulary_of(data, tensors, direct)}
    findings = findings_of(data, analysis)
    if direct:
        further["direct"] = direct
    if data.winners is not None:
        further["winners"] = tables.winners_of(data)
        findings += findings_of_winners(data.winners, further["winners"])
    return Report(
        findings=findings,
        metrics=analysis.metrics,
        layers=analysis.layers,
        neurons=analysis.neurons,
        columns=columns_of(data.options),
        statistic="ev_token",
        of_the_text=frozenset({"tokens", "tokens_counted", "tokens_sampled", "types_sampled"}),
        shares=shares_of(analysis.metrics),
        over_layers={
            "ev_token": ("mean explained variance: which token it is", ""),
            "top_share": ("share of the commonest of the top tokens", "top_share_null"),
        },
        tensors=tensors,
        notes=tables.notes_of(data),
        tables=further,
        figures=Figures(data, analysis).all(),
        folders={PAGES: _pages(data)} if data.options.pages else {},
    )


def _pages(data: TopContextsData) -> Callable[[Path, Path], None]:
    """What writes the pages, once the tables are in the run folder."""
    site, title = data.site, data.label

    def write_pages(to: Path, run_folder: Path) -> None:
        from neurexp.pages.writing import write_of

        write_of(run_folder, to, title, site)

    return write_pages
