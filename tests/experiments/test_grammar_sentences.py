"""Grammar tuning on labelled sentences: whole ones, and words of them."""

import json

import numpy as np
import pytest
import torch
from inprocess import run_experiment

from neurexp.experiments.contrast import ContrastData
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import load_model

STATEMENTS = ["The cat sleeps on the mat.", "A dog barks at night.", "The horse  runs fast.", "Cats eat fish."]
QUESTIONS = ["Is the door open?", "Where is the river?", "Who has the key?", "Why do you ask?"]
WHOLE = [{"text": text, "category": "statements"} for text in STATEMENTS]
WHOLE += [{"text": text, "category": "questions"} for text in QUESTIONS]
WORDS = {"animal": ["cat", "dog", "horse", "sheep"], "thing": ["door", "river", "key", "table"]}
FRAMES = ["The {} is here.", "Look at this {} again."]
TARGETS = [
    {"text": frame.format(word), "target": word, "category": category}
    for category, words in WORDS.items()
    for word in words
    for frame in FRAMES[: 1 + (word in ("cat", "door", "key"))]
]


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


def measured(model, folder, lines, **options):
    (file := folder / "sentences.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    few = {"layer": 2, "permutations": 100, "splits": 2, "shuffles": 2, "text": False, "site": "MLP"}
    chosen = Options("grammar_tuning", "", sentences=str(file), **few, **options)
    chosen.check()
    plan, results, report = run_experiment(GrammarTuning(chosen), model, None, model_name="mini")
    return plan, ContrastData.of(chosen, plan, results), report


def mean_over(model, text, start, stop):
    """By plain transformers: the mean over the tokens that cover any of the characters [start, stop)."""
    kept = []
    handle = model.network.transformer.h[2].mlp.c_fc.register_forward_hook(lambda *call: kept.append(call[2][0]))
    encoded = model.tokenizer(text, return_offsets_mapping=True)
    with torch.no_grad():
        model.network(torch.tensor([encoded["input_ids"]]))
    handle.remove()
    chosen = [first < stop and last > start for first, last in encoded["offset_mapping"]]
    return kept[0][torch.tensor(chosen)].double().mean(0).numpy()


def test_a_line_without_a_target_is_a_row_as_a_whole_and_stands_in_no_template(model, tmp_path):
    plan, data, report = measured(model, tmp_path, WHOLE)
    assert list(data.categories) == ["questions", "statements"]
    assert [one.name for one in plan.passes] == ["words"]  # nothing beside it, such as “The {word}”
    assert sorted(data.rows.words) == sorted(" ".join(text.split()) for text in [*STATEMENTS, *QUESTIONS])
    expected = {" ".join(text.split()): mean_over(model, text, 0, len(text)) for text in [*STATEMENTS, *QUESTIONS]}
    for word, found in zip(data.rows.words, data.activations["words"][2], strict=True):
        np.testing.assert_allclose(found, expected[word], atol=1e-5)
    assert report.metrics["words"] == 8
    assert report.findings[0].startswith("4 questions, 4 statements; ")


def test_several_sentences_with_a_target_are_one_word(model, tmp_path):
    _, _, report = measured(model, tmp_path, [*TARGETS, TARGETS[0]])
    means = {}
    for line in TARGETS:
        start = line["text"].index(line["target"])
        row = mean_over(model, line["text"], start, start + len(line["target"]))
        means.setdefault((line["category"], line["target"]), []).append(row)
    assert report.metrics["words"] == 8
    assert report.metrics["words_duplicate"] == 1
    for label, category in enumerate(WORDS):
        own = np.mean([np.mean(rows, 0) for (of, _), rows in means.items() if of == category], 0)
        np.testing.assert_allclose(report.neurons[f"mean_{label}"], own, atol=1e-5)


def test_a_line_that_cannot_be_used_is_skipped_and_named(model, tmp_path):
    bad = [{"text": STATEMENTS[0], "category": "questions"}, {"text": "a\u202eb c", "category": "questions"}]
    bad.append({"text": "word " * 600, "category": "questions"})
    plan, _, report = measured(model, tmp_path, [*WHOLE, *bad], bad_sentences=0.3)
    assert [(one.item, one.reason) for one in plan.skipped] == [
        (9, f"“{STATEMENTS[0]}” is of category “statements” in line 1"),
        (10, "its text has an invisible character"),
        (11, "its text has more tokens than mini has positions, 512"),
    ]
    assert report.metrics["words_skipped"] == 3
