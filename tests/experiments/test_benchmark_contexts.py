"""The benchmark's costs of top contexts: every case reduces what it says, and the shares follow from the seconds."""

import numpy as np
import pytest
import tiny
from inprocess import text_of

from neurexp.experiments.benchmark import context_costs
from neurexp.experiments.benchmark.context_costs import CASES, COLUMNS, ContextCosts, measure
from neurexp.models.load import LanguageModel


class Tokenizer:
    all_special_ids = (0,)


def test_every_case_runs_the_text_with_its_reducers(monkeypatch):
    kept = []

    def keeping(case, *given, of=context_costs.reducers_of):
        kept.append((case, of(case, *given)))
        return kept[-1][1]

    monkeypatch.setattr(context_costs, "reducers_of", keeping)
    monkeypatch.setattr(context_costs, "special_ids", lambda tokenizer: tokenizer.all_special_ids)
    model = LanguageModel(tiny.build("gpt2"), Tokenizer(), "tiny", "made here", "random", fast=False)  # type: ignore[arg-type]
    ids = np.arange(150) % 59
    costs = measure(model, text_of(ids, 16), "NEURON", [0, 2], 2, 3, lambda case: case() or 1.0)
    assert costs.tokens == 150
    assert [case for case, _ in kept] == list(CASES) * 4  # one round more, which is not counted
    found = {case: {type(one).__name__: one.state() for one in reducers} for case, reducers in kept}
    assert {case: list(of) for case, of in found.items()} == {
        "none": [],
        "extremes": ["Extremes"],
        "moments": ["Moments"],
        "extremes_moments": ["Extremes", "Moments"],
        "extremes_moments_histogram": ["Extremes", "Moments", "NeuronHistogram"],
    }
    all_of_them = found["extremes_moments_histogram"]
    assert all_of_them["Moments"]["n"].tolist() == [(ids != 0).sum()] * 2
    places = all_of_them["Extremes"]["places"].numpy()
    assert places.min() > 0
    assert (ids[places] != 0).all()
    in_every_eighth = ids[(np.arange(150) // 16) % 8 == 0]
    assert (all_of_them["NeuronHistogram"]["counts"].sum(-1) == (in_every_eighth != 0).sum()).all()


def test_shares_are_of_the_pass_of_the_same_round():
    seconds = {name: np.array([2.0, 4.0, 1.0]) * (1 + 0.1 * index) for index, name in enumerate(CASES)}
    seconds["moments"] = np.array([3.0, 4.4, 1.1])
    costs = ContextCosts(seconds, 1000)
    table = costs.table()
    assert table["share"] == pytest.approx([0, 0.1, 0.1, 0.3, 0.4])
    assert table["share_max"] == pytest.approx([0, 0.1, 0.5, 0.3, 0.4])
    assert table["seconds"] == pytest.approx([2, 2.2, 3, 2.6, 2.8])
    metrics = costs.metrics(table)
    assert set(metrics) <= set(COLUMNS)
    assert {f"context_costs.{name}" for name in table} <= set(COLUMNS)
    (finding,) = costs.findings(metrics)
    assert "over 1,000 tokens, Extremes and Moments add 30.0% to a pass that reduces nothing" in finding
    assert "Extremes 10.0%, Moments 10.0%. With a NeuronHistogram of every 8th sequence it is 40.0%" in finding
