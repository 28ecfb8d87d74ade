"""Every number of an ablation, against a float64 loop of edits by hand-written hooks on plain transformers models."""

from dataclasses import dataclass

import numpy as np
import pytest
from ablations import Oracle, ablation, measured, text, tiny
from scipy import stats

from neurexp.experiments.base import TokenGroup
from neurexp.experiments.intervention.data import InterventionData
from neurexp.report.report import Report, Table
from neurexp.stats.mode import half_sample_mode

SETS = {"verbs": [(1, 3), (2, 7), (0, 30)], "nouns": [(2, 1), (2, 39)]}
KS = {"verbs": [1, 2], "nouns": [1, 2]}
KINDS = ["mean", "zero", "peak", "resample"]
MODULES = {"gpt_neo": ("transformer.h", "mlp.c_proj"), "llama": ("model.layers", "mlp.down_proj")}
TOKENS = text()
SEED = 4
RARE = TOKENS.input_ids % 3 == 1  # tokens of “verbs”


@dataclass
class Case:
    data: InterventionData
    report: Report
    oracle: Oracle

    def loss_change(self, kind: str, neurons) -> tuple[np.ndarray, np.ndarray]:
        """The change of each prediction's loss, and log p with the neurons replaced."""
        log_p = self.oracle.edited({tuple(one): self.value(kind, *one) for one in np.asarray(neurons).tolist()})
        return self.oracle.loss(log_p) - self.oracle.loss(self.oracle.log_p), log_p

    def value(self, kind: str, layer: int, neuron: int):
        if kind == "zero":
            return 0.0
        if kind == "mean":
            return self.oracle.mean(layer, neuron)
        rows = self.rows(layer)[:, neuron]
        if kind == "peak":
            return float(half_sample_mode(rows[:, None])[0])
        length = TOKENS.valid.shape[1]
        draws = [np.random.default_rng([0, one]).integers(0, len(rows), length) for one in range(len(TOKENS.valid))]
        return rows[np.stack(draws)]

    def rows(self, layer: int) -> np.ndarray:
        """The activations at random tokens; this text is so short that they are all of its tokens."""
        return self.data.measured.rows[layer].astype(np.float64)

    def groups(self) -> dict[str, np.ndarray]:
        """Which predictions are in each group, `[sequences, length − 1]`."""
        counted = self.oracle.counted
        return {"all": counted, "next: verbs": counted & RARE[:, 1:], "own: verbs": counted & RARE[:, :-1]}

    def effect(self, change: np.ndarray, group: str, specific: bool = False) -> float:
        here, every = self.groups()[group], self.groups()["all"]
        return change[here].mean() - (change[every & ~here].mean() if specific else 0)


@pytest.fixture(scope="module", params=["gpt_neo", pytest.param("llama", marks=pytest.mark.slow)])
def case(request) -> Case:
    model = tiny(request.param)
    groups = {
        "verbs": TokenGroup(RARE, RARE, "listed verbs"),
        "nouns": TokenGroup(np.zeros_like(RARE), np.zeros_like(RARE), "listed nouns"),  # the text has none
    }
    experiment = ablation(SETS, groups, kind=KINDS, ks=[1, 2], layer="all")
    return Case(*measured(experiment, model, TOKENS, seed=SEED), Oracle(model, TOKENS, *MODULES[request.param]))


def rows_of(table: Table, **wanted) -> np.ndarray:
    return np.flatnonzero(np.logical_and.reduce([table[name] == value for name, value in wanted.items()]))


def test_the_groups_are_those_with_a_prediction(case):
    assert [group.name for group in case.data.groups] == ["all", "next: verbs", "own: verbs"]
    for name, mask in case.groups().items():
        rows = rows_of(case.report.tables["effects"], tokens=name)
        assert (case.report.tables["effects"]["predictions"][rows] == mask.sum()).all()
        plain = case.oracle.loss(case.oracle.log_p)[mask].mean()
        np.testing.assert_allclose(case.report.tables["effects"]["loss_unedited"][rows], plain, rtol=1e-5)


def test_there_is_a_row_for_each_set_k_kind_and_group(case):
    effects = case.report.tables["effects"]
    together = [(kind, name, k) for kind in KINDS for name in SETS for k in KS[name]]
    alone = [(kind, f"{name}: {layer}.{neuron}", 1) for kind in KINDS for name in SETS for layer, neuron in SETS[name]]
    expected = sorted((*one, group) for one in together + alone for group in case.groups())
    found = zip(effects["kind"], effects["set"], effects["k"].tolist(), effects["tokens"], strict=True)
    assert sorted(map(tuple, found)) == expected


FAST_KINDS = ("mean", "resample")


@pytest.mark.parametrize(
    "kind", [one if one in FAST_KINDS else pytest.param(one, marks=pytest.mark.slow) for one in KINDS]
)
def test_effects(case, kind):
    effects = case.report.tables["effects"]
    for name, pairs in SETS.items():
        drawn = case.data.drawn.sets[name]
        together = [(name, pairs[:k], drawn[:, :k]) for k in KS[name]]
        one_each = np.stack([draw[index % len(pairs)] for index, draw in enumerate(drawn)])[:, None]
        alone = [
            (f"{name}: {layer}.{neuron}", [(layer, neuron)], one_each[one_each[:, 0, 0] == layer])
            for layer, neuron in pairs
        ]
        for label, neurons, random in together + alone:
            change, log_p = case.loss_change(kind, neurons)
            different = {tuple(sorted(map(tuple, draw.tolist()))) for draw in random}
            null = [case.loss_change(kind, draw)[0] for draw in sorted(different)]
            for group, mask in case.groups().items():
                (row,) = rows_of(effects, set=label, kind=kind, tokens=group, k=len(neurons))
                got = {column: values[row] for column, values in effects.items()}
                for prefix, column, specific in (("", "delta_loss", False), ("specific_", "specific_delta_loss", True)):
                    if specific and group == "all":
                        assert np.isnan(got[column])
                        assert np.isnan(got["specific_p"])
                        continue
                    own = case.effect(change, group, specific)
                    others = np.array([case.effect(one, group, specific) for one in null])
                    assert got[column] == pytest.approx(own, abs=2e-6)
                    assert got[f"{prefix}null_mean"] == pytest.approx(others.mean(), abs=2e-6)
                    assert got[f"{prefix}null_sd"] == pytest.approx(others.std(ddof=1), abs=2e-6)
                    assert np.abs(others - own).min() > 2e-6  # no tie that rounding could decide
                    assert got[f"{prefix}p"] == pytest.approx((1 + (others >= own).sum()) / (len(others) + 1))
                    z = (own - others.mean()) / others.std(ddof=1)
                    assert got[f"{prefix}null_z"] == pytest.approx(z, rel=1e-3, abs=1e-3)
                    assert got[f"{prefix}null_low"] == pytest.approx(np.quantile(others, 0.025), abs=2e-6)
                    assert got[f"{column}_low"] <= got[f"{column}_high"]
                assert got["kl"] == pytest.approx(case.oracle.kl(log_p)[mask].mean(), abs=2e-6)
                assert got["agreement"] == case.oracle.agrees(log_p)[mask].mean()
                rank = case.oracle.rank(log_p)[mask].mean() - case.oracle.rank(case.oracle.log_p)[mask].mean()
                assert got["rank_change"] == pytest.approx(rank)
                assert got["neurons"] == " ".join(f"{layer}.{neuron}" for layer, neuron in neurons)


def test_intervals_are_over_sequences(case):
    effects = case.report.tables["effects"]
    change, _ = case.loss_change("mean", SETS["verbs"][:2])
    mask = case.groups()["next: verbs"]
    sums, counts = np.where(mask, change, 0).sum(1), mask.sum(1)
    times = np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=100)
    low, high = np.quantile((times @ sums) / (times @ counts), [0.025, 0.975])
    (row,) = rows_of(effects, set="verbs", kind="mean", tokens="next: verbs", k=2)
    assert effects["delta_loss_low"][row] == pytest.approx(low, abs=2e-6)
    assert effects["delta_loss_high"][row] == pytest.approx(high, abs=2e-6)


def test_neurons(case):
    table, oracle = case.report.neurons, case.oracle
    assert np.array_equal(table["layer"] * 40 + table["neuron"], np.arange(120))
    values = np.concatenate([oracle.neurons[layer][TOKENS.valid] for layer in range(3)], axis=1)  # [tokens, 120]
    gradients = np.concatenate([oracle.gradients[layer][TOKENS.valid] for layer in range(3)], axis=1)
    np.testing.assert_allclose(table["mean"], values.mean(0), atol=1e-6)
    np.testing.assert_allclose(table["mean_abs"], np.abs(values).mean(0), atol=1e-6)
    network = case.oracle.network
    blocks, down = MODULES["gpt_neo"] if "transformer.h" in dict(network.named_modules()) else MODULES["llama"]
    weights = [block.get_submodule(down).weight.detach().numpy() for block in network.get_submodule(blocks)]
    np.testing.assert_allclose(table["output_norm"], np.linalg.norm(weights, axis=1).ravel(), rtol=1e-5)
    rows = np.concatenate([case.rows(layer) for layer in range(3)], axis=1)
    assert len(rows) == TOKENS.count
    np.testing.assert_allclose(rows, values, atol=1e-5)
    replacements = {"mean": values.mean(0), "zero": 0, "peak": half_sample_mode(rows), "resample": rows.mean(0)}
    for kind, replacement in replacements.items():
        name = "delta_loss_estimate" + ("" if kind == "mean" else f"_{kind}")
        estimate = (gradients * (replacement - values)).sum(0) / oracle.counted.sum()
        np.testing.assert_allclose(table[name], estimate, atol=1e-6)


def test_exact_effects_of_single_neurons(case):
    table = case.report.neurons
    found = [tuple(one) for pairs in SETS.values() for one in pairs]
    assert {(layer, neuron) for layer, neuron in zip(*np.divmod(np.flatnonzero(table["found"]), 40), strict=True)} == {
        *found
    }
    tried = np.flatnonzero(np.isfinite(table["delta_loss"]))
    sample = {tuple(one) for one in case.data.drawn.sample.tolist()}
    one_each = {
        tuple(draw[index % len(SETS[name])].tolist())
        for name in SETS
        for index, draw in enumerate(case.data.drawn.sets[name])
    }
    assert len(sample) == 3
    assert {(index // 40, index % 40) for index in tried.tolist()} == {*found, *sample, *one_each}
    for index in tried.tolist():
        change, _ = case.loss_change("mean", [(index // 40, index % 40)])
        assert table["delta_loss"][index] == pytest.approx(case.effect(change, "all"), abs=2e-6)


def test_layers_and_metrics(case):
    table, layers, metrics = case.report.neurons, case.report.layers, case.report.metrics
    estimate = table["delta_loss_estimate"].reshape(3, 40)
    np.testing.assert_allclose(layers["estimate_abs_mean"], np.abs(estimate).mean(1))
    np.testing.assert_allclose(layers["estimate_largest"], estimate.max(1))
    np.testing.assert_allclose(layers["share_estimate_positive"], (estimate > 0).mean(1))
    assert layers["neurons_found"].tolist() == [1, 1, 3]
    effects = case.report.tables["effects"]
    for name in SETS:
        (row,) = rows_of(effects, set=name, kind="mean", tokens="all", k=2)
        for metric, column in (("delta_loss", "delta_loss"), ("p", "p"), ("null_z", "null_z"), ("kl", "kl")):
            assert metrics[f"{metric}_{name}"] == effects[column][row]
    (row,) = rows_of(effects, set="verbs", kind="mean", tokens="next: verbs", k=2)
    assert metrics["delta_loss_verbs_next"] == effects["delta_loss"][row]
    assert metrics["specific_delta_loss_verbs_next"] == effects["specific_delta_loss"][row]
    assert metrics["specific_p_verbs_next"] == effects["specific_p"][row]
    (row,) = rows_of(effects, set="verbs", kind="mean", tokens="own: verbs", k=2)
    assert metrics["delta_loss_verbs_own"] == effects["delta_loss"][row]
    assert not [name for name in metrics if name.endswith(("nouns_own", "nouns_next"))]
    places = case.data.flat(case.data.drawn.sample)
    x, y = table["delta_loss_estimate"][places], table["delta_loss"][places]
    # A neuron that was drawn elsewhere, too, has run beside others there, and was rounded otherwise
    assert metrics["estimate_r_sample"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-4)
    assert metrics["estimate_rank_r_sample"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert metrics["estimate_slope_sample"] == pytest.approx((x * y).sum() / (x * x).sum(), rel=1e-4)
    weights, drawn = table["output_norm"], case.data.flat(case.data.drawn.sets["verbs"])
    own = case.data.flat(np.array(SETS["verbs"]))
    ratio = np.exp(np.log(weights[drawn]).mean() - np.log(weights[own]).mean())
    assert metrics["match_weights_ratio_verbs"] == pytest.approx(ratio)


def test_the_direct_path(case):
    network = case.oracle.network
    blocks, down = MODULES["gpt_neo"] if "transformer.h" in dict(network.named_modules()) else MODULES["llama"]
    norm = network.get_submodule("transformer.ln_f" if blocks == "transformer.h" else "model.norm")
    layers = network.get_submodule(blocks)

    def logits(layer, neuron):
        column = layers[layer].get_submodule(down).weight[:, neuron].detach()
        centred = column - column.mean() if blocks == "transformer.h" else column
        return ((centred * norm.weight) @ network.get_output_embeddings().weight.T).detach().numpy()

    ids = np.unique(TOKENS.input_ids[RARE & TOKENS.valid])

    def on_verbs(neurons):
        every = np.stack([logits(layer, neuron) for layer, neuron in np.asarray(neurons).tolist()])
        return ((every[:, ids].mean(1) - every.mean(1)) / every.std(1)).mean()

    metrics = case.report.metrics
    own = on_verbs(SETS["verbs"])
    null = np.array([on_verbs(draw) for draw in case.data.drawn.sets["verbs"]])
    assert metrics["direct_verbs"] == pytest.approx(own, abs=1e-5)
    assert metrics["direct_null_mean_verbs"] == pytest.approx(null.mean(), abs=1e-5)
    away = np.abs(null - null.mean())
    assert metrics["direct_p_verbs"] == pytest.approx((1 + (away >= abs(own - null.mean())).sum()) / 21)
    table = case.report.tables["direct"]
    rows = rows_of(table, set="nouns", layer=2, neuron=39, sign=1)
    order = np.argsort(-logits(2, 39))[:10]
    assert table["id"][rows].tolist() == order.tolist()
    assert table["rank"][rows].tolist() == list(range(1, 11))
    np.testing.assert_allclose(table["effect"][rows], logits(2, 39)[order], atol=1e-5)
    assert table["token"][rows[0]].strip() == f"w{order[0]}"
