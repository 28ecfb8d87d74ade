"""`python -m neurexp.pages RUN [RUN …]` writes the pages of a run of `top_contexts`, or a card as a picture."""

import argparse
import sys
from pathlib import Path

from neurexp.console import terminal
from neurexp.errors import UserError, one_line, printable
from neurexp.io.files import NotWritableError, whole_file, whole_folder
from neurexp.pages.others import OtherRun, others_of
from neurexp.pages.subject import Subject, read
from neurexp.report.finished import FinishedRun, read_finished


def main() -> None:
    """The command."""
    terminal.prepare()
    parser = argparse.ArgumentParser(
        "python -m neurexp.pages",
        description="Writes pages that show every neuron of a run of experiment=top_contexts; a browser opens them "
        "from disk.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run of experiment=top_contexts")
    others_help = "folders of other runs of the same model, which say what they know of the same neurons"
    parser.add_argument("others", nargs="*", type=Path, metavar="RUN", help=others_help)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the pages go; RUN/pages if not given")
    parser.add_argument("--site", help="of a run of several sites: the one whose neurons are shown")
    parser.add_argument(
        "--png", nargs=2, metavar=("LAYER/NEURON", "FILE"), help="writes this neuron's card as a picture instead"
    )
    given = parser.parse_args()
    try:
        with terminal.without_a_log():
            made = _make(given.run, given.others, given.to, given.site, given.png)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(printable(str(made)))


def _make(run: Path, others: list[Path], to: Path | None, site: str | None, png: list[str] | None) -> Path:
    """Writes what is asked for. Returns the file to open."""
    if png is not None and to is not None:
        raise UserError("--png, --to: give one of the two")
    neuron = None if png is None else _neuron(png[0])
    subject = read(run, site, str(run))
    finished = read_finished(run, str(run))
    if site is not None and finished.sites and site not in finished.sites:
        raise UserError(f"--site {site}: {run} has no such site; give one of {', '.join(finished.sites)}")
    own = site or (finished.sites[0] if finished.sites else "MLP")
    told = _others(subject, own, finished, others)
    title = f"{finished.summary['setting']}, {own}"
    if png is not None and neuron is not None:
        return _picture(subject, title, neuron, Path(png[1]), told)
    folder = run / (f"pages_{site}" if site and len(finished.sites) > 1 else "pages") if to is None else to
    _check_replaceable(folder)
    from neurexp.pages.writing import write

    try:
        with whole_folder(folder) as path:
            write(subject, path, title, told)
    except NotWritableError as error:
        raise UserError(
            f"--to {folder}: cannot be written ({one_line(error.__cause__ or error)}); choose another folder"
        ) from error
    return folder / "index.html"


def _others(subject: Subject, site: str, finished: FinishedRun, folders: list[Path]) -> list[OtherRun]:
    return others_of(
        subject, site, str(finished.facts.get("model_hash")), [read_finished(one, str(one)) for one in folders]
    )


def _neuron(given: str) -> tuple[int, int]:
    layer, _, neuron = given.replace(".", "/").partition("/")
    if not (layer.isdecimal() and neuron.isdecimal()):
        raise UserError(f"--png {given}: give LAYER/NEURON, such as 15/276")
    return int(layer), int(neuron)


def _picture(subject: Subject, title: str, neuron: tuple[int, int], file: Path, others: list[OtherRun]) -> Path:
    from neurexp.pages.card import card_of

    if file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--png … {file}: give a file that ends with .png, .pdf or .svg")
    card = card_of(subject, title, *neuron, others)
    try:
        with whole_file(file) as path:
            card.figure().savefig(path, format=file.suffix.lower().removeprefix("."))
    except NotWritableError as error:
        raise UserError(
            f"--png … {file}: cannot be written ({one_line(error.__cause__ or error)}); choose another file"
        ) from error
    return file


def _check_replaceable(folder: Path) -> None:
    """Raises UserError if the folder exists and holds something else than pages: it is replaced as a whole."""
    from neurexp.pages.writing import DATA, SITE_FILES, is_piece

    if not folder.exists():
        if not folder.absolute().parent.is_dir():
            raise UserError(f"--to {folder}: there is no folder {folder.absolute().parent}; make it first")
        return
    if not folder.is_dir():
        raise UserError(f"--to {folder}: is a file; give a folder")
    others = [path.name for path in folder.iterdir() if path.name not in (*SITE_FILES, DATA)]
    if (folder / DATA).is_dir():
        others += [f"{DATA}/{path.name}" for path in (folder / DATA).iterdir() if not is_piece(path.name)]
    if others:
        raise UserError(f"--to {folder}: holds other files than pages ({sorted(others)[0]}); give a new folder")
    if any(folder.iterdir()) and not (folder / DATA / "meta.js").exists():
        raise UserError(f"--to {folder}: holds files that are not of pages; give a new folder")


if __name__ == "__main__":
    main()
