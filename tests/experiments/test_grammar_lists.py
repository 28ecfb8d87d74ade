"""Grammar tuning on lists of other scripts, of sentences, and of lines that cannot be used."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from inprocess import run_experiment
from made_tokenizers import decoded
from pyarrow import parquet

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.experiments.contrast import ContrastData, ContrastPlan
from neurexp.experiments.contrast.data import GAP
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import load_model
from neurexp.report.report import Report
from neurexp.text.running_text import read_text
from neurexp.text.skipped import Skipped

VERBS, NOUNS = ["学习", "吃饭", "回家", "走路"], ["学校", "苹果", "老师", "汽车"]
SENTENCE = "猫在桌子上。狗在学校吃饭，老师回家，苹果汽车走路学习，上学校的学习班。"
PLAIN = {"a": ["run", "write", "give", "take"], "b": ["table", "river", "window", "doctor"]}
SMALL = {"layer": 2, "permutations": 100, "splits": 2, "shuffles": 2}


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


def folder_of(folder: Path, **lists: list[str]) -> str:
    folder.mkdir()
    for name, words in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{word}\n" for word in words), "utf-8", errors="surrogateescape")
    return str(folder)


@dataclass(frozen=True)
class Measured:
    plan: ContrastPlan
    data: ContrastData
    report: Report


def measured(model, folder: Path, words: str, text: str | None = None, **options) -> Measured:
    chosen = Options("grammar_tuning", "", words=words, text=text is not None, **SMALL, **options)
    tokens = None
    if text is not None:
        (corpus := folder / "corpus").mkdir(exist_ok=True)
        (corpus / "text.txt").write_text(text, "utf-8")
        dataset = DatasetConfig(source=Source.files, path=str(corpus), tokens=900, sequence_length=300, bad_rows=0.5)
        tokens = read_text(dataset, model.tokenizer, model.begins_with_bos, folder / "cache")
    plan, results, report = run_experiment(GrammarTuning(chosen), model, tokens, model_name="mini")
    return Measured(plan, ContrastData.of(chosen, plan, results), report)


def test_chinese_words_are_found_in_unspaced_text_and_shown_as_characters(model, tmp_path):
    words = folder_of(tmp_path / "lists", verbs=VERBS, nouns=NOUNS)
    run = measured(model, tmp_path, words, SENTENCE * 40, second_template=None, occurrences=3)
    data, report = run.data, run.report
    assert data.text is not None
    found, excerpt = data.text.found, data.text.excerpt
    assert decoded(model.tokenizer, found) == found.words
    assert sorted(found.words) == sorted([*VERBS, *NOUNS] * 3)
    assert report.metrics["text_occurrences"] == 24
    # 回家 and 老师 are followed or led by a comma, but have letters on the other side; all adjoin
    assert report.metrics["text_occurrences_adjoining"] == 24
    assert any(
        line.startswith("24 of the 24 occurrences in the text stand directly beside other letters, in a script")
        for line in report.findings
    )
    shown = data.excerpt_of(2, 5)
    rows = data.text_rows(2)
    assert shown is not None
    assert rows is not None
    tokens, values, listed = shown
    passages = "".join(tokens).split(GAP)
    assert len(passages) > 1
    assert all(passage in SENTENCE * 40 for passage in passages)
    assert len(tokens) < len(excerpt.words)
    assert not any("\ufffd" in token for token in tokens)
    # The value of a character is the mean over its tokens, and its category that of its word
    own = rows[1][:, 5]
    row_of = {
        place: row for row, place in enumerate(zip(excerpt.sequence.tolist(), excerpt.start.tolist(), strict=True))
    }
    windows = [[]]
    for sequence, ids in enumerate(found.tokens.input_ids.tolist()):
        place = 0
        while place < len(ids):
            stop = place + 1
            while "\ufffd" in model.tokenizer.decode(ids[place:stop]) and stop < len(ids):
                stop += 1
            text, first = model.tokenizer.decode(ids[place:stop]), row_of.get((sequence, place))
            if first is not None and (sequence, stop - 1) in row_of and "\ufffd" not in text:
                span = slice(first, first + stop - place)
                windows[-1].append((text, own[span].mean(), excerpt.category[span].max()))
            elif windows[-1]:
                windows.append([])
            place = stop
        windows.append([])
    # The two in which the neuron is most active, in the text's order
    windows = [window for window in windows if window]
    best = sorted(range(len(windows)), key=lambda index: -max(value for _, value, _ in windows[index]))[:2]
    one, two = (windows[index] for index in sorted(best))
    expected = [*one, (GAP, np.nan, -1), *two]
    assert [text for text, _, _ in expected] == tokens
    np.testing.assert_allclose(values, [value for _, value, _ in expected], atol=1e-6)
    assert listed.tolist() == [category for _, _, category in expected]


def test_too_few_occurrences_to_compare_are_said_so(model, tmp_path):
    words = folder_of(tmp_path / "lists", verbs=VERBS, nouns=NOUNS)
    text = "学校在那里。" + "这是别的字。" * 200
    report = measured(model, tmp_path, words, text, second_template=None).report
    assert report.metrics["text_occurrences"] == 0  # at the very beginning: what goes before is not known
    assert "No listed word occurs in the text as a whole word, so there is nothing to generalise to." in report.findings
    (tmp_path / "other").mkdir()
    report = measured(model, tmp_path / "other", words, "在" + text, second_template=None).report
    assert (
        "Too few of the words occur in the text to compare them there: 0 of verbs, 1 of nouns; give more text."
        in report.findings
    )


def test_sentences_are_rows_as_a_whole(model, tmp_path):
    tail = "along the very long and winding road that leads from the hill down to the old harbour of the city"
    sentences = [f"He {verb}s {tail}" for verb in PLAIN["a"]]
    text = "and so. " + "".join(f"{sentence}. " for sentence in sentences) * 16
    run = measured(
        model, tmp_path, folder_of(tmp_path / "lists", a=sentences, b=PLAIN["b"]), text, second_template=None
    )
    assert decoded(model.tokenizer, run.data.rows) == sorted(sentences) + sorted(PLAIN["b"])
    assert run.data.text is not None
    assert set(run.data.text.found.words) == set(sentences)
    assert "4 rows are longer than 100 characters. The text was searched for each as a whole." in run.report.findings


def test_a_line_too_long_for_the_model_is_skipped_and_named(model, tmp_path):
    positions = model.network.config.max_position_embeddings
    words = PLAIN | {"a": [*PLAIN["a"], "long " * (positions + 9)]}
    folder = folder_of(tmp_path / "lists", **words)
    run = measured(model, tmp_path, folder, bad_words=0.2)
    assert sorted(run.data.rows.words) == sorted([*PLAIN["a"], *PLAIN["b"]])
    assert run.data.rows.tokens.valid.shape[1] < 10
    reason = f"as “{{word}}” it has more tokens than {model.name} has positions, {positions}"
    assert run.plan.skipped == (Skipped(f"{folder}/a.txt", 5, reason),)  # though it is too long in context as well
    assert run.report.metrics["words_skipped"] == 1
    assert run.report.findings[0].endswith(" Left out: lines that cannot be used (1).")
    with pytest.raises(
        UserError, match=r"^experiment\.bad_words=0\.05: 1 of 9 lines cannot be used \(.*a\.txt, row 5: as "
    ):
        measured(model, tmp_path, folder)


def test_what_the_running_text_skipped_is_named_too(model, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "bad.txt").write_text("a\0b")
    folder = folder_of(tmp_path / "lists", a=[*PLAIN["a"], "x\x1b"], b=PLAIN["b"])
    run = measured(model, tmp_path, folder, "nothing of that. " * 400, bad_words=0.2)
    skipped = [(one.where, one.item) for one in run.plan.skipped]
    assert skipped == [(f"{folder}/a.txt", 5), (f"{tmp_path}/corpus/bad.txt", 0)]


def test_a_run_on_chinese_words_from_the_command_line(quick_cli, tmp_path):
    folder_of(tmp_path / "词", 动词=[*VERBS, "坏\u202e", *PLAIN["a"]], 名词=[*NOUNS, *PLAIN["b"], "cafe\u0301", "café"])
    (tmp_path / "text.txt").write_text(SENTENCE * 60, "utf-8")
    process = quick_cli(
        "experiment=grammar_tuning", "model=mini", "tracking=off", "experiment.words='词'", "experiment.bad_words=0.1",
        "experiment.permutations=100", "experiment.splits=2", "experiment.shuffles=2", "dataset=text",
        "dataset.path=text.txt", "dataset.tokens=1500", "experiment.second_template=null", "hydra.run.dir=run",
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    assert (
        "Skipped 1, all listed in skipped.parquet: 词/动词.txt, row 5: “坏\\u202e” has an invisible character, U+202E"
        in process.stdout
    )
    assert "Glyph" not in process.stdout
    assert process.stdout.count("no installed font has") <= 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["provenance"]["skipped"] == summary["metrics"]["words_skipped"] == 1
    assert summary["metrics"]["words_duplicate"] == 1
    assert summary["metrics"]["text_occurrences"] == 32
    table = parquet.read_table(tmp_path / "run" / "skipped.parquet").to_pylist()
    assert [(row["where"], row["item"]) for row in table] == [("词/动词.txt", 5)]
    page = (tmp_path / "run" / "figures" / "text_heat_map.html").read_text("utf-8")
    assert "\ufffd" not in page
    assert ">猫</span>" in page
    assert "the mean where one character is several tokens" in page
    assert 'dir="auto"' in page
