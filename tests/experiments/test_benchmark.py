"""The benchmark: what is counted, compared and left out is right; how long anything takes is never asserted."""

import copy
import json
import os
import sys
from importlib import metadata

import numpy as np
import pytest
import tiny
import torch
from inprocess import run_experiment, small_model, text_of
from pyarrow import parquet
from transformers import AutoTokenizer

from neurexp.errors import UserError
from neurexp.experiments.benchmark import cases, machine, peers
from neurexp.experiments.benchmark.cases import Case
from neurexp.experiments.benchmark.experiment import Benchmark, Options, _longest
from neurexp.models.locations import MINI
from neurexp.models.sites import find_sites

CPU = torch.device("cpu")
W, E = tiny.WIDTH, tiny.EXPANSION
LENGTH = 8
ALL_KEYS = (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) / LENGTH  # that a token sees on average
WINDOW_KEYS = (1 + 2 + 3 + 4 + 5 + 5 + 5 + 5) / LENGTH  # of the last five only


# What is counted


@pytest.mark.parametrize(
    ("family", "site", "layers", "linear", "keys"),
    [
        # Four projections, c_fc and c_proj in each of three layers; the first attends to all, the others to a window
        ("gpt_neo", None, None, {(W, W): 12, (W, E): 3, (E, W): 3}, ALL_KEYS + 2 * WINDOW_KEYS),
        ("gpt_neo", "MLP", None, {(W, W): 12, (W, E): 3, (E, W): 2}, ALL_KEYS + 2 * WINDOW_KEYS),
        ("gpt_neo", "MLP", [0, 1], {(W, W): 8, (W, E): 2, (E, W): 1}, ALL_KEYS + WINDOW_KEYS),
        ("gpt_neo", "ACT", [0], {(W, W): 4, (W, E): 1}, ALL_KEYS),
        ("gpt_neo", "PROJ", [0], {(W, W): 4, (W, E): 1, (E, W): 1}, ALL_KEYS),
        ("gpt2", None, None, {(W, 3 * W): 3, (W, W): 3, (W, E): 3, (E, W): 3}, 3 * ALL_KEYS),
        ("gpt2", "Q", [1], {(W, 3 * W): 2, (W, W): 1, (W, E): 1, (E, W): 1}, ALL_KEYS),
        # Two of four heads have keys and values of their own; the gate comes first
        ("llama", "MLP", [0], {(W, W): 2, (W, W // 2): 2, (W, E): 1}, ALL_KEYS),
        ("mistral", None, None, {(W, W): 6, (W, W // 2): 6, (W, E): 6, (E, W): 3}, 3 * WINDOW_KEYS),
    ],
)
def test_the_arithmetic_is_that_of_a_hand_count(family, site, layers, linear, keys):
    network = tiny.build(family)
    sites = find_sites(network, site, layers) if site else ()
    found = machine.count_arithmetic(network, LENGTH, sites)
    assert found.linear == {shape: 2 * shape[0] * shape[1] * times for shape, times in linear.items()}
    assert found.attention == pytest.approx(4 * W * keys)
    assert found.total == sum(found.linear.values()) + found.attention
    assert not any(module._forward_hooks for module in network.modules())


def test_the_floor_weights_each_shape_by_its_arithmetic_and_takes_the_best_of_all_tries(monkeypatch):
    seconds = {(2, 3): [4.0, 1.0, 9.0, 9.0], (5, 7): [2.0, 8.0, 8.0, 8.0]}

    def next_seconds(way, x, weight, device):
        return seconds[weight.shape[1], weight.shape[0]].pop(0)

    monkeypatch.setattr(machine, "_seconds_of_product", next_seconds)
    operations = {(2, 3): 12 * 100, (5, 7): 70 * 10}  # for a token: a hundred layers of one shape, ten of the other
    floor = machine.Floor(machine.Arithmetic(operations, 0.0), 4, CPU, torch.float32)
    floor.measure(repeats=1)
    floor.measure(repeats=1)
    assert floor.rate == pytest.approx(4 * (1200 + 700) / (100 * 1.0 + 10 * 2.0))


def test_the_floor_of_a_real_machine_is_a_number():
    floor = machine.Floor(machine.Arithmetic({(16, 8): 256}, 0.0), 4, CPU, torch.float32)
    floor.measure()
    assert 0 < floor.rate < float("inf")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_was_taken_at_once_above_what_was_there():
    held = np.ones(50_000_000, dtype=np.uint8)
    assert machine.peak_memory(lambda: None, CPU) < 10

    def work():
        for _ in range(2):
            assert np.ones(100_000_000, dtype=np.uint8).sum() == 100_000_000

    assert 95 < machine.peak_memory(work, CPU) < 130
    assert held.sum() == 50_000_000


def test_where_the_kernel_tells_nothing_memory_is_unknown_and_the_work_is_done(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(machine, "PROCESS", tmp_path / "no such folder")
    assert machine.peak_memory(lambda: done.append(1), CPU) is None
    assert done == [1]


def test_the_load_of_others_is_what_the_cores_did_beyond_this_process(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    tick = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(machine, "ALL_PROCESSES", stat)
    monkeypatch.setattr(machine.time, "perf_counter", iter([10.0, 20.0]).__next__)
    own = iter([(1.0, 1.0, 0.0, 0.0, 0.0), (4.0, 2.0, 0.5, 0.5, 0.0)])  # 5 seconds of work
    monkeypatch.setattr(machine.os, "times", own.__next__)
    stat.write_text("cpu  0 0 0 77 77 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    load = machine.OtherLoad()
    # 6 + 1 + 3 seconds in programs and kernel, 1 + 1 + 8 in interrupts and other guests; idle and waiting do not count
    times = [6, 1, 3, 99, 99, 1, 1, 8, 50, 50]
    stat.write_text("cpu  " + " ".join(str(seconds * tick) for seconds in times) + "\n")
    assert load.cores() == pytest.approx((20 - 5) / 10)


def test_where_nobody_tells_the_load_it_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ALL_PROCESSES", tmp_path / "no such file")
    assert machine.OtherLoad().cores() is None


def test_the_profile_names_the_longest_operators_and_leaves_nothing_out():
    spent = [(f"op{index}", float(index), index) for index in range(20)]
    table = _longest(spent, took=200.0)
    assert table["operator"][[0, 11, 12, 13]].tolist() == ["op19", "op8", "other operators", "outside operators"]
    assert table["seconds"].sum() == pytest.approx(200.0)
    assert table["share"].sum() == pytest.approx(1.0)
    assert len(table["operator"]) == 14
    by_name = dict(zip(table["operator"], table["seconds"], strict=True))
    assert by_name["other operators"] == sum(range(1, 8))
    assert by_name["outside operators"] == 200.0 - sum(range(20))


def test_the_profiler_sees_a_product_and_writes_nothing_on_standard_error(capfd):
    a = torch.ones(20, 20)
    spent, seconds = machine.seconds_by_operator(lambda: a @ a, CPU)
    calls = {name: count for name, _, count in spent}
    assert calls["aten::mm"] == 1
    assert sum(one for _, one, _ in spent) <= seconds * 1.5
    assert capfd.readouterr().err == ""


# Turns and ratios


def test_cases_run_in_turn_and_ratios_are_of_the_same_round():
    order = []
    seconds = iter([2.0, 1.0, 6.0, 4.0, 8.0, 4.0, 10.0, 2.0, 1.0])
    three = [Case(name, name, lambda size: None, 1) for name in ("bare", "pass", "recipe")]

    def seconds_of(case):
        order.append(case.name)
        return next(seconds)

    found = cases.take_turns(three, 3, seconds_of, lambda index: order.append(index))
    assert order == [0, "bare", "pass", "recipe", 1, "bare", "pass", "recipe", 2, "bare", "pass", "recipe"]
    relative = cases.ratios(found, "bare")
    assert relative["bare"].tolist() == [1, 1, 1]
    assert relative["pass"].tolist() == [0.5, 2.0, 0.2]  # of medians it would be 1
    assert relative["recipe"].tolist() == [3.0, 1.0, 0.1]


def test_the_best_batch_size_is_the_quickest_and_the_first_time_is_not_counted():
    seen = []
    seconds = iter([3.0, 1.0, 2.0])

    def seconds_of(work):
        work()
        return next(seconds)

    found = cases.best_batch_size(seen.append, [1, 2, 4], seconds_of)
    assert list(found) == [2, 4, 1]
    assert seen == [1, 1, 2, 4]


# The recipe


def test_basic_statistics_are_numpys():
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 3)).astype(np.float32)
    groups = [np.arange(0, 20), np.array([], dtype=np.int64), np.arange(20, 47)]
    found = cases.basic_statistics(torch.from_numpy(values), [torch.from_numpy(group) for group in groups])
    for (mean, deviation, histogram), group in zip(found, (groups[0], groups[2]), strict=True):
        np.testing.assert_allclose(mean, values[group].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(deviation, values[group].std(0), rtol=1e-5)
        assert int(histogram.sum()) == len(group) * 3


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    ids = tokenizer("Neurons of a language model respond to interesting things, and a few of them to length. " * 12)
    return text_of(ids["input_ids"][:150])


def test_the_recipe_keeps_what_our_capture_gives_and_leaves_no_hook_even_if_it_fails(tokenizer, tokens, monkeypatch):
    model = small_model(tokenizer)
    sites = find_sites(model.network, "MLP")
    recipe = cases.Recipe(model, tokens, sites, [48, 48])
    assert recipe.bytes_needed == (2 * 48 + 2 * 48) * tokens.input_ids.size * 4
    kept = []
    monkeypatch.setattr(cases, "basic_statistics", lambda values, members: kept.append((values, members)))
    recipe(2)
    reference = np.concatenate([np.flatnonzero(rows) for rows in tokens.valid.reshape(1, -1)])
    for values, members in kept:
        assert values.shape == (tokens.input_ids.size, 48)
        assert set(torch.cat(members).tolist()) <= set(reference.tolist())
    by_other = []
    monkeypatch.setattr(cases, "basic_statistics", lambda values, members: by_other.append(values))

    def fetch(ids):
        with torch.inference_mode():
            hidden = model.network.base_model(ids, output_hidden_states=True).hidden_states
            blocks = model.network.base_model.h
            rows = []
            for block, before in zip(blocks, hidden, strict=False):
                after = before + block.attn(block.ln_1(before))[0]
                rows.append(block.mlp.c_fc(block.ln_2(after)))
            return rows

    recipe.with_fetch(fetch)(3)
    for (values, _), other in zip(kept, by_other, strict=True):
        assert tiny.difference(other, values) < 1e-5

    def fail(values, members):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model.network, "forward", lambda batch: fail(None, None))
    with pytest.raises(RuntimeError, match="no memory"):
        recipe(2)
    assert not any(module._forward_hooks for module in model.network.modules())


# Peers


def ids_and_ours(network):
    ids = tiny.token_ids(1, 12)
    sites = find_sites(network, "MLP")
    kept = []
    handles = [site.module.register_forward_hook(lambda module, args, output: kept.append(output)) for site in sites]
    with torch.inference_mode():
        network.base_model(ids)
    for handle in handles:
        handle.remove()
    return ids, sites, kept


def find_with(monkeypatch, make, version="1.2.3"):
    network = tiny.build("gpt_neo")
    ids, sites, ours = ids_and_ours(network)
    monkeypatch.setattr(peers, "PEERS", {"peer": ("Peer", "peer", lambda network, sites: make(ours))})
    monkeypatch.setattr(peers.metadata, "version", lambda package: version)
    return peers.find_peers(network, sites, ids, ours, 1e-5)


def test_a_peer_that_gives_our_activations_is_measured(monkeypatch):
    found = find_with(monkeypatch, lambda ours: lambda ids: [rows * (1 + 1e-7) for rows in ours])
    ((case, (label, _, difference)),) = found.items()
    assert (case, label) == ("peer", "Peer 1.2.3")
    assert difference < 1e-6


def test_a_missing_peer_is_skipped_and_that_is_said(monkeypatch, caplog):
    def make(ours):
        raise ModuleNotFoundError("No module named 'peer'")

    with caplog.at_level("INFO", logger="neurexp"):
        assert find_with(monkeypatch, make) == {}
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().startswith("Peer: not installed, left out")


def test_a_package_that_pip_does_not_know_is_missing_too(monkeypatch, caplog):
    def unknown(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(peers.metadata, "version", unknown)
    network = tiny.build("gpt_neo")
    with caplog.at_level("INFO", logger="neurexp"):
        assert peers.find_peers(network, *ids_and_ours(network)[1::-1], [], 1e-5) == {}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["TransformerLens", "nnsight"]


@pytest.mark.parametrize(
    ("fetch", "said"),
    [
        (lambda ours, ids: [rows * 1.01 for rows in ours], "differ from ours"),
        (lambda ours, ids: [rows * torch.nan for rows in ours], "differ from ours"),
        (lambda ours, ids: ours[:1], "cannot run this model"),
        (lambda ours, ids: 1 / 0, "cannot run this model, left out (ZeroDivisionError"),
    ],
)
def test_a_peer_that_gives_something_else_is_left_out_and_that_is_said(monkeypatch, caplog, fetch, said):
    assert find_with(monkeypatch, lambda ours: lambda ids: fetch(ours, ids)) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert said in record.getMessage()


def test_a_peers_copy_shares_the_weights_and_nothing_else():
    network = tiny.build("gpt_neo")
    twin = peers._twin(network)
    assert all(a is b for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    assert not {id(module) for module in network.modules()} & {id(module) for module in twin.modules()}
    assert twin.config is not network.config


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(peers.PEERS))
@pytest.mark.parametrize("family", ["gpt_neo", "gpt2", "llama"])
def test_an_installed_peer_gives_our_activations_and_leaves_the_network_as_it_was(case, family):
    name, package, make = peers.PEERS[case]
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    network = tiny.build(family)
    before = copy.deepcopy(network.state_dict())
    ids, sites, ours = ids_and_ours(network)
    theirs = make(network, sites)(ids)
    assert max(tiny.difference(*pair) for pair in zip(theirs, ours, strict=True)) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    again = ids_and_ours(network)[2]
    assert all(torch.equal(*pair) for pair in zip(again, ours, strict=True))


# The whole experiment


def options(**changes):
    return Options(
        **(
            {
                "name": "benchmark",
                "plugin": "",
                "rounds": 3,
                "batch_sizes": [1, 2],
                "peers": False,
                "edits": 2,
                "commands": 0,
            }
            | changes
        )
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 2}, "experiment.rounds=2: give a whole number of 3 or more"),
        ({"batch_sizes": []}, "experiment.batch_sizes=[]: "),
        ({"batch_sizes": [4, 0]}, "experiment.batch_sizes=[4,0]: "),
        ({"bf16": "yes"}, "experiment.bf16=yes: give true, false or auto"),
        ({"control": "random"}, "experiment.control=random: benchmark has no control"),
        ({"permutations": 1}, "experiment.permutations=1: "),
        ({"edits": 1}, "experiment.edits=1: give a whole number of 2 or more, or 0 for none"),
        ({"edits": -1}, "experiment.edits=-1: "),
        ({"commands": -1}, "experiment.commands=-1: "),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(changes, said):
    with pytest.raises(UserError) as caught:
        Benchmark(options(**changes))
    assert str(caught.value).startswith(said)


def benchmark(tokenizer, tokens, monkeypatch, free=None, **changes):
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    _, _, report = run_experiment(Benchmark(options(**changes)), small_model(tokenizer), tokens, batch_size=2)
    return report


def test_the_report_follows_from_the_rounds(tokenizer, tokens, monkeypatch):
    report = benchmark(tokenizer, tokens, monkeypatch, bf16=True)
    table, rounds, metrics = report.tables["benchmark"], report.tables["rounds"], report.metrics
    names = ["bare", "capture", "pass", "recipe", "pass_bf16"]
    assert table["case"].tolist() == names
    assert rounds["round"].tolist() == sorted([0, 1, 2] * 5)
    assert rounds["case"].tolist() == names * 3
    seconds = {name: rounds["seconds"][rounds["case"] == name] for name in names}
    for row, name in enumerate(names):
        relative = seconds[name] / seconds["bare"]
        assert table["seconds"][row] == np.median(seconds[name])
        assert (table["seconds_min"][row], table["seconds_max"][row]) == (seconds[name].min(), seconds[name].max())
        assert table["ratio"][row] == np.median(relative)
        assert (table["ratio_min"][row], table["ratio_max"][row]) == (relative.min(), relative.max())
        assert table["tokens_per_second"][row] == 150 / np.median(seconds[name])
        if name != "bare":
            assert metrics[f"ratio_{name}"] == np.median(relative)
    share = (seconds["pass"] - seconds["capture"]) / seconds["pass"]
    assert metrics["statistics_share"] == np.median(share)
    after = rounds["analysis_seconds"][rounds["case"] == "pass"]
    assert metrics["analysis_share"] == np.median(after / seconds["pass"])
    assert np.isnan(rounds["analysis_seconds"][rounds["case"] == "capture"]).all()
    assert metrics["tokens"] == 150
    assert metrics["hours_per_billion_tokens"] == pytest.approx(1e9 / 150 * metrics["seconds_pass"] / 3600)
    # Arithmetic: 160 tokens are computed, padded ones too
    for name in ("pass", "bare"):
        run = metrics[f"{name}_gflop_per_token"] * 160 / metrics[f"seconds_{name}"]
        assert metrics[f"{name}_gflops"] == pytest.approx(run)
        assert metrics[f"{name}_floor_share"] == pytest.approx(run / metrics["floor_gflops"])
    alone = metrics["pass_gflop_per_token"] * 160 / metrics["floor_gflops"]
    assert metrics["ratio_floor"] == pytest.approx(alone / metrics["seconds_bare"])
    assert 0 < metrics["bf16_error"] < 0.05
    assert 0 <= metrics["bf16_r_difference_median"] <= metrics["bf16_r_difference_largest"] < 0.1
    sizes = report.tables["batch_sizes"]
    bare_sizes = sizes["batch_size"][sizes["case"] == "bare"]
    assert bare_sizes.tolist() == [1, 2]
    best = sizes["seconds"][sizes["case"] == "bare"].argmin()
    assert table["batch_size"][0] == bare_sizes[best]
    assert report.tables["profile"]["share"].sum() == pytest.approx(1)
    assert (report.layers, report.neurons) == ({}, {})
    assert report.findings[0].startswith("The whole of token_length, nulls and intervals included, takes ")
    report.figures["benchmark"]().savefig(os.devnull, format="png")
    assert report.provenance == {"peers": []}
    ablations = report.tables["ablations"]
    assert ablations["case"].tolist() == ["ours", "ours", "script"]
    assert ablations["layer"].tolist() == [0, 1, 1]
    assert metrics["edit_cost_layer_1"] == ablations["cost"][1] == pytest.approx(2 * ablations["forwards"][1])
    assert report.findings[-2].startswith(
        "Ablations: one of 2 sets of neurons edited in layer 0, 1 of 2 over 128 tokens"
    )
    assert all(name in report.columns for name in metrics)


@pytest.mark.slow
def test_what_would_not_fit_into_memory_is_left_out_and_that_is_said(tokenizer, tokens, monkeypatch, caplog):
    report = benchmark(tokenizer, tokens, monkeypatch, free=1000, bf16=False, peers=True, edits=0)
    assert report.tables["benchmark"]["case"].tolist() == ["bare", "capture", "pass"]
    assert "ratio_recipe" not in report.metrics
    assert "ablations" not in report.tables
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "keep-everything recipe and the peers are left out" in warning


def test_on_its_own_it_is_offline_and_every_choice_can_be_overridden(quick_cli, tmp_path):
    def composed(*overrides):
        process = quick_cli("experiment=benchmark", *overrides, "--cfg", "job")
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.splitlines()

    lines = composed()
    for line in (
        "  source: pydoc",
        "  weights: random",
        "  tokenizer: mini",
        "  name: benchmark",
        "  model_type: gpt_neo",
    ):
        assert any(line.strip() == found.strip() for found in lines)
    lines = composed(
        "model=mini", "dataset=text", f"dataset.path={tmp_path}", "model.tokenizer=null", "model.weights=pretrained"
    )
    for line in ("  source: files", "  weights: pretrained", "  tokenizer: null", "  name: mini"):
        assert line in lines


@pytest.mark.slow
def test_the_command_leaves_its_files_metrics_and_figure(cli, tmp_path):
    process = cli(
        "experiment=benchmark", "model=mini", "dataset.tokens=300", "dataset.sequence_length=128",
        "device.threads=1", "experiment.rounds=3", "experiment.batch_sizes=[1]", "experiment.peers=false",
        "experiment.edits=2", "experiment.commands=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    metrics = summary["metrics"]
    assert summary["setting"] == "mini with random weights on pydoc"
    assert {"ratio_pass", "ratio_capture", "ratio_recipe", "statistics_share", "floor_gflops", "pass_gflops"} <= set(
        metrics
    )
    assert {"pass_floor_share", "tokens_per_second", "hours_per_billion_tokens"} <= set(metrics)
    assert ("memory_mb" in metrics) == (sys.platform == "linux")
    for line in summary["findings"]:
        assert line in process.stdout
    for name in ("benchmark", "rounds", "batch_sizes", "profile", "ablations", "command_costs"):
        assert parquet.read_table(folder / f"{name}.parquet").num_rows > 0
    assert not (folder / "layers.parquet").exists()
    assert not (folder / "neurons.parquet").exists()
    assert (folder / "figures" / "benchmark.png").stat().st_size > 5000
    dictionary = (folder / "columns.md").read_text("utf-8")
    assert all(f"| `{name}` |" in dictionary for name in metrics)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    run = client.get_run(summary["mlflow_run_id"])
    assert run.data.metrics["ratio_pass"] == pytest.approx(metrics["ratio_pass"])
    assert run.data.params["experiment.rounds"] == "3"
    assert "figures/benchmark.png" in [file.path for file in client.list_artifacts(run.info.run_id, "figures")]
