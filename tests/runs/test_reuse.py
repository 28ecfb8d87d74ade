"""A pass is run once: the same command with other options of the analysis finds what the first one left."""

import json

import pytest
from conftest import FINISHED_ARGUMENTS
from pyarrow.parquet import read_table

ARGUMENTS = (*FINISHED_ARGUMENTS, "experiment.layer=[0,3]", "tracking=off", "run.outputs=out")
SAID = "taken from an earlier pass"


@pytest.fixture(scope="module")
def first(commands, tmp_path_factory):
    """The folder in which a first command has run; its run folder is `first`."""
    folder = tmp_path_factory.mktemp("first")
    process = commands.run((*ARGUMENTS, "hydra.run.dir=first", "experiment.control=random"), folder)
    assert process.returncode == 0, process.stderr
    assert SAID not in process.stdout
    return folder


@pytest.fixture
def run(commands, first, tmp_path):
    """`run(option, …)` → what a second command there printed, its summary and its neurons; without: of the first."""

    def one(*options):
        name = str(tmp_path / f"second{len(list(tmp_path.iterdir()))}") if options else "first"
        process = commands.run((*ARGUMENTS, f"hydra.run.dir={name}", *options), first) if options else None
        assert process is None or process.returncode == 0, process.stderr
        summary = json.loads((first / name / "summary.json").read_text("utf-8"))
        return process and process.stdout, summary, read_table(first / name / "neurons.parquet").to_pandas()

    return one


def test_another_analysis_of_the_same_pass_reuses_it_and_says_so(run):
    _, first, one = run()
    assert first["provenance"]["reused"] == []
    assert "capture" in first["timings"]

    said, summary, two = run("experiment.correction=by")
    assert SAID in said
    assert summary["provenance"]["reused"] == ["text"]
    assert "capture" not in summary["timings"]  # what was not measured is not reported
    assert (two["q_length"] >= one["q_length"]).all()
    assert (two["q_length"] > one["q_length"]).any()
    rest = [name for name in one.columns if not name.startswith(("q_", "survival"))]
    assert one[rest].equals(two[rest])


@pytest.mark.parametrize(
    "option",
    [
        "experiment.permutations=8",
        "dataset.tokens=1024",
        "run.reuse=false",
        *(
            pytest.param(option, marks=pytest.mark.slow)
            for option in (
                "experiment.skip_positions=1",
                "experiment.strip_space=true",
                "experiment.site=ACT",
                "run.seed=1",
                "device.batch_size=1",
                "device.dtype=bfloat16",
                "model.fast=false",
            )
        ),
    ],
)
def test_another_pass_is_another_pass(run, option):
    said, summary, _ = run(option)
    assert SAID not in said
    assert summary["provenance"]["reused"] == []
    assert "capture" in summary["timings"]


def test_a_reused_pass_and_its_control_give_the_same_report_to_the_bit(run):
    _, first, one = run()
    said, summary, two = run("experiment.control=random")
    assert said.count(SAID) == 2
    assert summary["provenance"]["reused"] == ["text", "control: text"]
    assert one.equals(two)
    assert first["metrics"] == summary["metrics"]
    assert first["findings"] == summary["findings"]


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"x" * 50], ids=["torn", "other"])
def test_a_damaged_file_is_made_anew(run, first, damage):
    _, _, one = run()
    kept = {file: file.read_bytes() for file in (first / "out" / "cache").glob("passes_*.safetensors")}
    for file, content in kept.items():
        file.write_bytes(damage(content))
    said, summary, two = run("experiment.control=off")
    assert SAID not in said
    assert "capture" in summary["timings"]
    assert one.equals(two)
    anew = {file.name for file, content in kept.items() if file.read_bytes() == content}
    # What the model's two layers share, and these; its control's, and those of other options, stay as they are
    assert len(anew) == 3
    for file, content in kept.items():
        file.write_bytes(content)


@pytest.mark.parametrize("layer", ["3", "[0]"])
def test_a_layer_of_a_stored_pass_serves_a_run_of_this_layer_to_the_bit(run, layer):
    chosen = f"experiment.layer={layer}"
    said, summary, reused = run(chosen)
    assert SAID in said
    assert summary["provenance"]["reused"] == ["text"]
    _, _, fresh = run(chosen, "run.reuse=false")
    assert set(reused["layer"]) == {int(layer.strip("[]"))}
    assert reused.equals(fresh)
