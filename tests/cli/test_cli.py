"""The command line: what it offers without importing anything heavy, and what a run leaves behind."""

import json
import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from conftest import FINISHED_ARGUMENTS, environment
from pyarrow import parquet
from safetensors.numpy import load_file
from transformers import AutoTokenizer, GPTNeoForCausalLM

import neurexp
from neurexp.models.locations import MINI

SMALL = ("model=mini", "dataset=pydoc", "tracking=off")
GROUPS = ("shorter", "equal", "longer", "special")
HEAVY = {"torch", "transformers", "datasets", "mlflow", "scipy", "matplotlib", "pandas", "pyarrow"}


def imported(stderr: str) -> set[str]:
    """The top-level packages in what `python -X importtime` writes."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in stderr.splitlines()}


def run_python(tmp_path: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path / "hf", **changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def complete(tmp_path: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What bash asks when the user presses tab at the end of `line`."""
    words = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": str(len(line.split()) - 1)}
    return run_python(tmp_path, "-X", "importtime", "-m", "neurexp", "-sc", "query=bash", **words)


def test_help_lists_every_group_with_its_choices(cli, tmp_path):
    process = cli("--help")
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    for line in (
        "model: gpt_neo_125m, gpt_neo_1_3b, hub, mini, smollm2",
        "device: auto, cpu, cuda",
        "dataset: fineweb, hub, pydoc, text",
        "experiment: ablation, benchmark, categories, context, grammar_tuning, identities, maximise, negation, "
        "proper_nouns, token_length, top_contexts",
        "tracking: mlflow, off",
    ):
        assert line in lines
    assert not list(tmp_path.iterdir())


def test_cfg_job_prints_the_whole_config_of_the_choices(cli, tmp_path):
    process = cli("--cfg", "job", "model=mini", "dataset=pydoc", "dataset.tokens=100")
    assert (process.returncode, process.stderr) == (0, "")
    for line in ("  name: mini", "  source: pydoc", "  tokens: 100", "  sequence_length: 512", "  dtype: float32"):
        assert line in process.stdout.splitlines()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("question", [["--help"], ["--cfg", "job"], ["model=min"], ["dataset.token=3"]])
def test_what_needs_no_run_imports_nothing_heavy(tmp_path, question):
    process = run_python(tmp_path, "-X", "importtime", "-m", "neurexp", *question)
    assert "hydra" in imported(process.stderr)
    assert not imported(process.stderr) & HEAVY


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("model=", {f"model={choice}" for choice in ("gpt_neo_125m", "gpt_neo_1_3b", "hub", "mini", "smollm2")}),
        ("dataset=p", {"dataset=pydoc"}),
        ("dataset.seq", {"dataset.sequence_length="}),
        ("experiment.b", {"experiment.bins=", "experiment.blocks="}),
    ],
)
def test_tab_completion_offers_choices_and_options_and_imports_nothing_heavy(tmp_path, typed, offered):
    process = complete(tmp_path, f"neurexp {typed}")
    assert set(process.stdout.split()) == offered
    assert not imported(process.stderr) & HEAVY
    assert not list(tmp_path.iterdir())


def test_the_console_script_is_the_same_program(tmp_path):
    script = Path(sys.executable).with_name("neurexp")
    if not script.exists():
        pytest.skip("neurexp is not installed here")
    process = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0
    assert process.stdout.startswith("neurexp: ")


def test_the_module_that_runs_is_the_same_program_too(tmp_path):
    process = run_python(tmp_path, "-W", "error", "-m", "neurexp.run", "--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("neurexp: ")
    process = run_python(tmp_path, "-m", "neurexp.run", "model=min")
    assert process.returncode == 1
    assert process.stderr.startswith("error: model=min: no such choice")


@pytest.mark.slow
def test_a_run_of_a_profile_imports_no_large_library_that_it_does_not_need(tmp_path):
    code = """
import sys
from neurexp.cli import main
sys.argv += ["experiment=token_length", "model=mini", "dataset=pydoc", "dataset.tokens=1024"]
main()
print({"datasets", "mlflow", "pandas", "scipy.signal", "scipy.stats"} & sys.modules.keys())
"""
    process = run_python(tmp_path, "-c", code)
    assert process.returncode == 0
    assert process.stdout.splitlines()[-1] == "set()"


def test_importing_neurexp_imports_nothing_heavy_and_offers_its_public_names(tmp_path):
    code = "import neurexp, sys; print(neurexp.__all__); neurexp.UserError; sys.exit('torch' in sys.modules)"
    process = run_python(tmp_path, "-c", code)
    assert process.returncode == 0
    assert process.stdout == f"{neurexp.__all__}\n"
    assert {"Contrast", "Profile", "UserError", "capture", "load_model"} < set(neurexp.__all__)
    others = {name: f"neurexp.{name}" for name in ("compare", "run", "runs")}  # modules that can be called
    assert all(getattr(neurexp, name).__name__ == others.get(name, name) for name in neurexp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        neurexp.nonsense  # noqa: B018


def test_a_run_is_quiet_on_standard_error_and_tells_what_it_found_and_where_it_lies(cli, tmp_path):
    process = cli(*SMALL, "dataset.tokens=64")
    assert (process.returncode, process.stderr) == (0, "")
    (folder,) = (tmp_path / "outputs" / "token_length").iterdir()
    findings = json.loads((folder / "summary.json").read_text())["findings"]
    for line in findings:
        assert line in process.stdout
    assert f"outputs/token_length/{folder.name}" in process.stdout
    for figure in folder.glob("figures/*.png"):
        assert f"figures/{figure.name}" in process.stdout
    assert "mlflow" not in process.stdout.lower()
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["cache", "token_length"]


def test_the_version_is_that_of_neurexp(quick_cli):
    process = quick_cli("--version")
    assert (process.returncode, process.stderr) == (0, "")
    assert re.fullmatch(r"neurexp (\d+\.\d+\.\d+|of a checkout), Hydra 1\.\d+\.\d+\n", process.stdout)


def test_a_tracked_run_says_how_to_open_mlflow(finished):
    assert "; open with: python -m neurexp.ui\n" in finished.process.stdout
    assert finished.process.stderr == ""


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text("utf-8"))


def read_table(path: Path) -> dict[str, np.ndarray]:
    table = parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def test_a_run_leaves_the_files_of_the_contract_and_nothing_else(finished):
    files = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    assert files == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "columns.json",
        "columns.md",
        "figures/activation_histograms.png",
        "figures/activation_over_length.png",
        "figures/length_and_frequency.png",
        "figures/r_by_layer.png",
        "figures/r_map.png",
        "figures/strongest_neurons.png",
        "figures/token_lengths.png",
        "histograms.safetensors",
        "layers.parquet",
        "length_curves.safetensors",
        "neurexp.log",
        "neurons.parquet",
        "strongest.parquet",
        "summary.json",
        "tokens.safetensors",
    }


def test_the_summary_says_what_was_run_and_found(finished):
    summary = summary_of(finished.folder)
    assert set(summary) >= {
        "experiment",
        "model",
        "device",
        "dtype",
        "metrics",
        "provenance",
        "mlflow_run_id",
        "timings",
    }
    assert (summary["experiment"], summary["model"]) == ("token_length", "mini")
    assert (summary["device"], summary["dtype"]) == ("cpu", "float32")
    assert all(isinstance(value, int | float) for value in summary["metrics"].values())
    assert re.fullmatch("[0-9a-f]{32}", summary["mlflow_run_id"])


def test_the_timings_name_every_stage_and_stay_within_the_total(finished):
    timings = summary_of(finished.folder)["timings"]
    stages = {"imports", "load_model", "prepare_text", "capture", "analyse", "figures", "track"}
    assert set(timings) == {*stages, "total"}
    assert all(value >= 0 for value in timings.values())
    assert sum(timings[stage] for stage in stages) <= timings["total"] + 0.01


def test_the_provenance_is_enough_to_repeat_the_run(finished):
    provenance = summary_of(finished.folder)["provenance"]
    assert provenance["seed"] == 0
    assert provenance["dataset"]["source"] == "pydoc"
    assert provenance["versions"]["torch"] == torch.__version__
    assert set(provenance) >= {"git_commit", "git_dirty", "model_revision", "tokenizer_hash", "token_hash"}
    assert provenance["command_line"].endswith(" ".join(("-m neurexp", *FINISHED_ARGUMENTS)))


def test_the_data_dictionary_defines_exactly_what_there_is(finished):
    page = (finished.folder / "columns.md").read_text("utf-8")
    defined = re.findall(r"^\| `(\w+)` \| .+ \|$", page, flags=re.MULTILINE)
    tables = [read_table(finished.folder / f"{name}.parquet") for name in ("layers", "neurons")]
    metrics = summary_of(finished.folder)["metrics"]
    assert sorted(defined) == sorted({*tables[0], *tables[1], *metrics})


def test_the_figures_are_drawings(finished):
    from matplotlib.image import imread

    for path in (finished.folder / "figures").iterdir():
        pixels = imread(path, "png")
        assert min(pixels.shape[:2]) >= 400
        assert pixels[..., :3].std() > 0.02


class Expected:
    """The numbers of the finished run, computed a second time: transformers alone, one sequence at a time, float64."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(MINI)
        stream: list[int] = []
        for name in sorted(topics):
            stream += tokenizer(topics[name])["input_ids"] + [tokenizer.eos_token_id]
        self.ids = np.array(stream[:1200])
        special = np.isin(self.ids, tokenizer.all_special_ids)
        self.texts = [tokenizer.decode([token]) for token in self.ids[~special]]
        lengths = np.array([len(tokenizer.decode([token])) for token in self.ids])
        self.lengths = lengths[~special]
        self.median = np.median(self.lengths)
        sides = (lengths < self.median, lengths == self.median, lengths > self.median)
        self.members = [*(side & ~special for side in sides), special]  # in the order of GROUPS

        network = GPTNeoForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()
        kept: list[list[np.ndarray]] = [[] for _ in network.transformer.h]
        for layer, block in enumerate(network.transformer.h):
            block.mlp.c_fc.register_forward_hook(
                lambda module, inputs, output, layer=layer: kept[layer].append(output[0].double().numpy())
            )
        with torch.no_grad():
            for start in range(0, 1200, 256):
                network(torch.from_numpy(self.ids[None, start : start + 256]))
        self.activations = np.stack([np.concatenate(parts) for parts in kept])  # [layers, tokens, neurons]


@pytest.fixture(scope="module")
def expected() -> Expected:
    return Expected()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal to the forward's own float32 rounding, NaN where NaN is due."""
    assert found.shape == expected.shape
    assert (np.isnan(found) == np.isnan(expected)).all()
    return np.linalg.norm(np.nan_to_num(found - expected)) <= 1e-5 * np.linalg.norm(np.nan_to_num(expected))


def test_the_tokens_file_holds_what_was_run(finished, expected):
    tokens = load_file(finished.folder / "tokens.safetensors")
    assert set(tokens) == {"input_ids", "valid"}
    assert tokens["input_ids"].shape == tokens["valid"].shape == (5, 256)
    assert tokens["valid"].flatten().tolist() == [True] * 1200 + [False] * 80
    assert (tokens["input_ids"][tokens["valid"]] == expected.ids).all()


def test_the_metrics_are_those_of_a_second_computation(finished, expected):
    metrics = summary_of(finished.folder)["metrics"]
    sizes = [int(members.sum()) for members in expected.members]
    assert all(sizes)
    assert (metrics["tokens"], metrics["tokens_special"]) == (1200, sizes[3])
    assert metrics["length_min"] == expected.lengths.min()
    assert metrics["length_max"] == expected.lengths.max()
    assert metrics["length_median"] == expected.median
    for name, size in zip(GROUPS[:3], sizes, strict=False):
        assert metrics[f"share_{name}"] == pytest.approx(size / sum(sizes[:3]))


def test_the_neurons_are_those_of_a_second_computation(finished, expected):
    table = read_table(finished.folder / "neurons.parquet")
    layers, _, neurons = expected.activations.shape
    assert table["layer"].tolist() == [layer for layer in range(layers) for _ in range(neurons)]
    assert table["neuron"].tolist() == list(range(neurons)) * layers
    assert close(table["mean"], expected.activations.mean(1).ravel())
    assert close(table["std"], expected.activations.std(1).ravel())
    assert close(table["mean_abs"], np.abs(expected.activations).mean(1).ravel())
    for name, members in zip(GROUPS[:3], expected.members, strict=False):
        assert close(table[f"mean_{name}"], expected.activations[:, members].mean(1).ravel())


def test_the_layers_are_those_of_a_second_computation(finished, expected):
    table = read_table(finished.folder / "layers.parquet")
    assert table["layer"].tolist() == list(range(len(expected.activations)))
    for suffix, members in zip(("", *(f"_{name}" for name in GROUPS)), (slice(None), *expected.members), strict=True):
        values = expected.activations[:, members]
        assert close(table[f"mean{suffix}"], values.mean((1, 2)))
        assert close(table[f"std{suffix}"], values.std((1, 2)))
        assert close(table[f"mean_abs{suffix}"], np.abs(values).mean((1, 2)))
    shorter, _, longer, _ = (expected.activations[:, members].mean((1, 2)) for members in expected.members)
    difference = (longer - shorter) / expected.activations.std((1, 2))
    assert np.abs(table["d_longer_shorter"] - difference).max() < 1e-5
    metrics = summary_of(finished.folder)["metrics"]
    strongest = int(np.abs(difference).argmax())
    assert metrics["d_longer_shorter_strongest_layer"] == strongest
    assert metrics["d_longer_shorter_strongest"] == pytest.approx(difference[strongest], abs=1e-5)
    assert (table["constant_neurons"] == (expected.activations.std(1) == 0).sum(1)).all()


def test_the_histograms_count_every_activation_once_in_its_bin(finished, expected):
    histograms = load_file(finished.folder / "histograms.safetensors")
    edges, counts = histograms["edges"], histograms["counts"]
    layers, _, neurons = expected.activations.shape
    bins = edges.shape[1] - 1
    assert histograms["layers"].tolist() == list(range(layers))
    assert counts.shape == (layers, len(GROUPS), bins)
    assert histograms["underflow"].shape == histograms["overflow"].shape == (layers, len(GROUPS))
    whole = counts.sum(2) + histograms["underflow"] + histograms["overflow"]
    sizes = [int(members.sum()) for members in expected.members]
    assert whole.tolist() == [[size * neurons for size in sizes]] * layers
    for layer in range(layers):
        for group, members in enumerate(expected.members):
            values = expected.activations[layer, members].ravel()
            reference = np.histogram(values, np.array([-np.inf, *edges[layer], np.inf]))[0]
            found = [histograms["underflow"][layer, group], *counts[layer, group], histograms["overflow"][layer, group]]
            # A value that lies on an edge to within rounding may fall on either side
            assert np.abs(reference - found).sum() <= 2 + 1e-4 * len(values)


def test_the_overlap_is_that_of_the_two_histograms(finished):
    counts = load_file(finished.folder / "histograms.safetensors")
    everything = np.concatenate(
        [counts["underflow"][..., None], counts["counts"], counts["overflow"][..., None]], axis=2
    )
    share = everything / everything.sum(2, keepdims=True)
    table = read_table(finished.folder / "layers.parquet")
    assert table["overlap_longer_shorter"] == pytest.approx(np.minimum(share[:, 0], share[:, 2]).sum(1))


def test_the_same_seed_gives_the_same_files_to_the_bit(quick_cli, finished, tmp_path):
    process = quick_cli(*FINISHED_ARGUMENTS, "tracking=off", "hydra.run.dir=again")
    assert process.returncode == 0, process.stderr
    for name in ("layers.parquet", "neurons.parquet", "histograms.safetensors", "tokens.safetensors", "columns.md"):
        assert (tmp_path / "again" / name).read_bytes() == (finished.folder / name).read_bytes(), name
    again, first = summary_of(tmp_path / "again"), summary_of(finished.folder)
    assert again["metrics"] == first["metrics"]
    assert again["mlflow_run_id"] is None


def test_the_batch_size_changes_nothing_but_rounding(quick_cli, finished, tmp_path):
    process = quick_cli(*FINISHED_ARGUMENTS, "tracking=off", "hydra.run.dir=whole", "device.batch_size=5")
    assert process.returncode == 0, process.stderr
    one, other = (read_table(folder / "neurons.parquet") for folder in (tmp_path / "whole", finished.folder))
    for name in one:
        assert close(one[name].astype(float), other[name].astype(float)), name
    histograms = [load_file(folder / "histograms.safetensors") for folder in (tmp_path / "whole", finished.folder)]
    assert (histograms[0]["edges"] == histograms[1]["edges"]).all()


def test_one_chosen_layer_is_the_same_as_in_a_run_over_all(quick_cli, finished, tmp_path):
    process = quick_cli(*FINISHED_ARGUMENTS, "tracking=off", "hydra.run.dir=one", "experiment.layer=[4]")
    assert process.returncode == 0, process.stderr
    table, whole = (read_table(folder / "neurons.parquet") for folder in (tmp_path / "one", finished.folder))
    chosen = whole["layer"] == 4
    # Corrected for the layers of the run, so these must differ
    for name in set(table) - {"q_length_all", "q_length_given_context_all"}:
        assert np.array_equal(table[name], whole[name][chosen], equal_nan=True), name
    assert load_file(tmp_path / "one" / "histograms.safetensors")["layers"].tolist() == [4]


def test_stripping_the_space_is_what_the_lengths_are_then_measured_by(quick_cli, tmp_path, expected):
    process = quick_cli(*FINISHED_ARGUMENTS, "tracking=off", "hydra.run.dir=bare", "experiment.strip_space=true")
    assert process.returncode == 0, process.stderr
    metrics = summary_of(tmp_path / "bare")["metrics"]
    lengths = np.array([len(text.removeprefix(" ")) for text in expected.texts])
    assert metrics["length_median"] == np.median(lengths)
    for name, members in (("shorter", lengths < np.median(lengths)), ("equal", lengths == np.median(lengths))):
        assert metrics[f"share_{name}"] == pytest.approx(members.mean())
    assert lengths.mean() < expected.lengths.mean()


def test_half_precision_runs_and_stays_near(quick_cli, finished, tmp_path):
    process = quick_cli(*FINISHED_ARGUMENTS, "tracking=off", "hydra.run.dir=half", "device.dtype=bfloat16")
    assert process.returncode == 0, process.stderr
    assert summary_of(tmp_path / "half")["dtype"] == "bfloat16"
    half, full = (read_table(folder / "neurons.parquet")["mean"] for folder in (tmp_path / "half", finished.folder))
    assert 0 < np.linalg.norm(half - full) < 0.05 * np.linalg.norm(full)


def test_a_text_of_one_token_is_described_without_a_warning(quick_cli, tmp_path):
    process = quick_cli(*SMALL, "dataset.tokens=1", "hydra.run.dir=one", draws=True)
    assert (process.returncode, process.stderr) == (0, "")
    summary = summary_of(tmp_path / "one")
    assert summary["metrics"]["share_equal"] == 1
    assert any("No correlation is defined" in finding for finding in summary["findings"])


def test_in_a_sweep_a_job_that_fails_stops_no_other_and_the_exit_code_tells(quick_cli, tmp_path):
    process = quick_cli("--multirun", *SMALL, "dataset.tokens=128", "experiment.layer=0,99,1")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: experiment.layer=99: ")
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    finished = {folder.name: read_table(folder / "layers.parquet")["layer"].tolist() for folder in sweep.glob("[0-9]/")}
    assert finished == {"0": [0], "2": [1]}
    summary = json.loads((sweep / "summary.json").read_text("utf-8"))
    assert [job["job"] for job in summary["jobs"]] == ["0", "2"]
    assert len(summary["failed"]) == 1
    assert read_table(sweep / "layers.parquet")["layer"].tolist() == [0, 1]


def test_dataset_bos_and_eos_put_their_tokens_and_are_noted(quick_cli, finished, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "ab":
        (tmp_path / "texts" / f"{name}.txt").write_text("The house is by the river. " * 8, "utf-8")
    # mini's tokenizer puts nothing around a text; its BOS and its EOS have the id 0
    cases = {
        "auto": ("dataset.bos=auto", "dataset.eos=auto", None, "<|endoftext|>"),
        "none": ("dataset.bos=false", "dataset.eos=False", None, None),
        "both": ("dataset.bos=true", "dataset.eos=true", "<|endoftext|>", "<|endoftext|>"),
    }
    for name, (bos, eos, first, end) in cases.items():
        arguments = ("model=mini", "experiment=token_length", "tracking=off", bos, eos, f"hydra.run.dir={name}")
        text = ("dataset=text", "dataset.path=texts", "dataset.tokens=96", "dataset.sequence_length=16")
        process = quick_cli(*arguments, *text)
        assert (process.returncode, process.stderr) == (0, "")
        ids = load_file(tmp_path / name / "tokens.safetensors")["input_ids"]
        assert int((ids[:, 0] == 0).sum()) == (6 if first else 0)
        assert int((ids[:, 1:] == 0).sum()) == (1 if end else 0)
        facts = json.loads((tmp_path / name / "summary.json").read_text("utf-8"))["provenance"]
        told = [facts[fact] for fact in ("begins_with_bos", "first_token", "document_end_token")]
        assert told == [first is not None, first, end]
    facts = json.loads((finished.folder / "summary.json").read_text("utf-8"))["provenance"]
    assert (facts["begins_with_bos"], facts["first_token"]) == (False, None)
