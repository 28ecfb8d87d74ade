"""Writes the folder of pages."""

from pathlib import Path

from neurexp.figures.heat import escape


def write_of(run_folder: Path, to: Path, title: str, site: str | None = None) -> None:
    """Fills a folder with the pages of a run of `top_contexts`.

    Args:
        run_folder: its tables and tensors must be written; its `summary.json` need not.
        to: an empty folder that exists (`Report.folders` gives one).
        title: of the pages: the model and the text.
        site: of the pages, in a run of several sites; their files are named `NAME_SITE`.
    """
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><h1>{escape(title)}</h1>"
    (to / "index.html").write_text(page, "utf-8")
