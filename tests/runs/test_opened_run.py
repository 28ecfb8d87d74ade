"""A finished run from Python: its tables, findings, figures and what a notebook shows, and mistakes."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_runs import made_run
from matplotlib.figure import Figure

import neurexp
from neurexp.errors import UserError
from neurexp.io.files import write_table, write_tensors

R = [0.2, -0.9, np.nan, 0.9, 0.5, -0.1]
NEURONS = {
    "layer": [0, 0, 0, 2, 2, 2],
    "neuron": [0, 1, 2, 0, 1, 2],
    "r_x": R,
    "r_x_low": np.array(R) - 0.1,
    "q_x": [0.5, 0.01, np.nan, 0.01, 0.02, 0.9],
    "label": list("abcdef"),
}
HOSTILE = "<script>alert(1)</script>\x1b[31m ‮ & <b>"


@pytest.fixture
def folder(tmp_path):
    """A run of six neurons with two figures and a page, of which one's name and findings are hostile."""
    where = tmp_path / "outputs" / "made" / "2026-01-02_03-04-05-000000"
    words = {"word": ["cat", "go"], "label": [1, 0]}
    made_run(where, NEURONS, "r_x", words, findings=["A text.", f"Of 6 neurons: {HOSTILE}"], model="m", dataset="d")
    write_tensors(where / "activations.safetensors", {"MLP_2": np.arange(6.0).reshape(2, 3)}, {"words": "[]"})
    (where / "figures").mkdir()
    for name in ("a", "b<i>"):
        Figure(figsize=(2, 1)).savefig(where / "figures" / f"{name}.png")
    (where / "figures" / "a.html").write_text('<style>body{color:red}</style><p>"x"</p>')
    columns = json.loads((where / "columns.json").read_text())
    known = {"r_x": "the correlation", "words.word": "the word itself"}
    (where / "columns.json").write_text(json.dumps(columns | known))
    return where


def test_a_run_has_its_tables_findings_and_tensors(folder):
    run = neurexp.open_run(folder)
    assert (run.experiment, run.title, run.findings[0]) == ("made", "model on text", "A text.")
    assert run.neurons["r_x"].tolist()[:2] == [0.2, -0.9]
    assert list(run.neurons) == list(NEURONS)
    assert run.layers["layer"].tolist() == [0, 2]
    assert run.words["word"].tolist() == ["cat", "go"]
    assert list(run.tables) == ["layers", "neurons", "words"]
    assert run.tables.get("none") is None
    assert np.array_equal(run.activations["MLP_2"], [[0, 1, 2], [3, 4, 5]])
    assert run.summary["statistic"] == "r_x"
    assert "made: model on text" in repr(run)


def test_names_are_explained(folder):
    run = neurexp.open_run(folder)
    assert run.describe("r_x") == "the correlation"
    assert run.describe("word") == run.describe("words.word") == "the word itself"
    assert run.describe("r_x_control") == "r_x of the control"
    assert run.describe().loc["r_x", "definition"] == "the correlation"
    with pytest.raises(UserError, match=r"^r_y: .* no such column, metric or tensor; did you mean r_x\?$"):
        run.describe("r_y")


def test_the_strongest_neurons_of_either_sign(folder):
    run = neurexp.open_run(folder)
    ways = {sign: run.top(2, sign=sign) for sign in ("any", "+", "-", "both")}
    assert [table.index.tolist() for table in ways.values()] == [[1, 3], [3, 4], [1, 5], [3, 4, 1, 5]]
    assert list(ways["any"]) == ["layer", "neuron", "r_x", "r_x_low", "q_x"]
    assert run.top(99)["r_x"].notna().sum() == len(run.top(99)) == 5
    assert run.top(1, by="q_x")["q_x"].tolist() == [0.9]
    with pytest.raises(UserError, match=r"^top\(by='label'\): no column of numbers"):
        run.top(by="label")
    with pytest.raises(UserError, match=r"^top\(sign='up'\): give 'any', 'both', '\+', '-'$"):
        run.top(sign="up")


def test_what_a_run_has_not_is_one_line_that_says_what_it_has(folder, tmp_path):
    run = neurexp.open_run(folder)
    made_run(tmp_path / "bare", {"layer": [0], "neuron": [0], "r": [1.0]}, "r")
    bare = neurexp.open_run(tmp_path / "bare")
    for wrong, message in (
        (
            lambda: run.tables["neuron"],
            r"^neuron: .* no such table; did you mean neurons\? \(there are",
        ),
        (lambda: run.figures["c"], r"^c: .* no such figure"),
        (lambda: run.activations["MLP_3"], r"^MLP_3: .* no such tensor in activations.safetensors; did you mean MLP_2"),
        (lambda: bare.words, r"^words: .*bare has no such table \(there are layers, neurons\)$"),
        (lambda: bare.activations, r"bare: the run of made kept no activations"),
        (
            lambda: neurexp.open_run(tmp_path / "none", outputs=tmp_path),
            r"none: no such run folder, .* give its address with uri=$",
        ),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_an_older_run_has_its_findings_in_its_log(folder):
    summary = json.loads((folder / "summary.json").read_text())
    del summary["findings"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert neurexp.open_run(folder).findings == []
    (folder / "neurexp.log").write_text("Model: m\n\n  • One • two.\n  • Three.\n\nSeconds: 1\n", "utf-8")
    assert neurexp.open_run(folder).findings == ["One • two.", "Three."]


def test_a_run_without_neurons_opens_too(folder):
    for name in ("neurons", "layers"):
        (folder / f"{name}.parquet").unlink()
    run = neurexp.open_run(folder)
    assert (run.findings[0], list(run.tables)) == ("A text.", ["words"])
    assert "<table" not in run._repr_html_()
    with pytest.raises(UserError, match=r"has no table of neurons$"):
        run.neuron(0, 0)
    with pytest.raises(UserError, match=r"^compare: .* is a run of made, which has no neurons$"):
        neurexp.compare([run, run])


def test_a_run_of_several_sites_asks_which_one(tmp_path):
    neurons = {"site": ["Q", "Q", "K", "K"], "layer": [0] * 4, "neuron": [0, 1, 0, 1], "r": [0.1, 0.2, 0.3, 0.4]}
    made_run(tmp_path / "two", neurons, "r")
    write_table(tmp_path / "two" / "layers.parquet", {"site": np.array(["Q", "K"]), "layer": np.array([0, 0])})
    run = neurexp.open_run(tmp_path / "two")
    assert run.top(1)[["site", "neuron"]].to_numpy().tolist() == [["K", 1]]
    assert run.neuron(0, 1, site="Q").statistics["r"] == 0.2
    with pytest.raises(UserError, match=r"two: is of several sites; give site= one of Q, K$"):
        run.neuron(0, 1)


def test_figures_are_shown_as_they_are_and_pages_in_a_frame_of_their_own(folder):
    figures = neurexp.open_run(folder).figures
    assert list(figures) == ["a", "b<i>", "a.html"]
    assert figures["a"]._repr_png_() == (folder / "figures" / "a.png").read_bytes()
    assert figures["a"].path == folder / "figures" / "a.png"
    frame = Seen(figures["a.html"]._repr_html_())
    assert [tag for tag, _ in frame.tags] == ["iframe"]
    assert frame.tags[0][1]["srcdoc"] == '<style>body{color:red}</style><p>"x"</p>'
    assert frame.tags[0][1]["sandbox"] == ""  # no script runs


class Seen(HTMLParser):
    """The elements and the text of a piece of HTML, without those of styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style = "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "style":
            self.style += data
        else:
            self.text += data


def test_a_notebook_shows_the_findings_the_strongest_neurons_and_the_figures_and_every_text_is_escaped(folder):
    seen = Seen(neurexp.open_run(folder)._repr_html_())
    tags = [tag for tag, _ in seen.tags]
    assert not {"script", "b", "i"} & set(tags)
    assert "<script>alert(1)</script>\\x1b[31m \\u202e & <b>" in seen.text
    assert (tags.count("li"), tags.count("img")) == (2, 2)
    rows = seen.text[seen.text.index("q_x") :]
    assert rows.index("−0.9") < rows.index("0.5")
    assert "Also in figures: a.html" in seen.text


def test_what_a_notebook_shows_styles_nothing_else(folder):
    seen = Seen(neurexp.open_run(folder)._repr_html_())
    rules = re.findall(r"([^{}]+)\{", seen.style)
    selectors = [one.strip() for rule in rules for one in rule.split(",")]
    assert selectors
    assert all(one.startswith(".neurexp-run") for one in selectors)


def test_runs_are_listed_with_what_they_found(folder):
    listed = neurexp.runs(folder.parents[1])
    assert list(listed) == ["experiment", "model", "dataset", "date", "headline", "folder"]
    (row,) = listed.itertuples(index=False)
    assert (row.experiment, row.model, row.dataset, row.folder) == ("made", "m", "d", str(folder))
    assert str(row.date) == "2026-01-02 03:04:05"
    assert row.headline.startswith("Of 6 neurons")
    assert neurexp.open_run(row.folder).title == "model on text"


def test_the_latest_run_comes_first_and_what_is_no_run_is_left_out(folder):
    outputs = folder.parents[1]
    made_run(outputs / "multirun" / "2026-05-01_00-00-00-000000" / "3", NEURONS, "r_x", model="m", dataset="d")
    for name, content in (("damaged", "{"), ("list", "[]"), ("sweep", '{"experiment": "sweep", "metrics": {}}')):
        (outputs / name).mkdir()
        (outputs / name / "summary.json").write_text(content)
    assert [one[-3:] for one in neurexp.runs(outputs)["folder"]] == ["0/3", "000"]
    (outputs / "empty").mkdir()
    assert len(neurexp.runs(outputs / "empty")) == 0
    with pytest.raises(UserError, match=r"none: no such folder; give the folder that runs go to"):
        neurexp.runs(outputs / "none")


def test_runs_are_compared_however_they_are_given(folder, tmp_path):
    made_run(tmp_path / "other", NEURONS | {"r_x": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "r_x")
    both = neurexp.compare([neurexp.open_run(folder), str(tmp_path / "other")])
    assert sum(str(tmp_path / "other") in line for line in both.findings) == 1
    assert len(both.tables["layers"]) == 4
    assert both.figures["densities"]._repr_png_().startswith(b"\x89PNG")
    assert both.describe("layer") == "block index, from 0"
    assert "<img" in both._repr_html_()
    written = both.save(tmp_path / "made" / "here")
    assert {"layers.parquet", "columns.json", "figures"} <= {one.name for one in written.iterdir()}
    with pytest.raises(UserError, match=r"^compare: give a list of two runs or more$"):
        neurexp.compare(str(folder))
