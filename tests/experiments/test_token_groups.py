"""Which tokens of a text a finding is about: masks of short texts, by hand, and the experiment of a finished run."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from inprocess import inputs_of, run_experiment, text_of
from made_runs import written
from test_profile_in_place import InPlace

import neurexp
from neurexp import ProfileOptions
from neurexp.errors import UserError
from neurexp.experiments import own_experiment
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.experiments.token_length import Options as LengthOptions
from neurexp.experiments.token_length import TokenLength
from neurexp.models.load import load_model
from neurexp.report.report import Report
from neurexp.text import align, place

NOUNS, VERBS = ("dogs", "riverbank", "house", "tree"), ("eat", "sleep", "unravel", "go")
TEXT = "The dogs eat. Dogs sleep by the riverbank, and the dogs unravel dogsled ropes. Eat, house of cards!"


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


def lists(folder, **categories) -> str:
    folder.mkdir()
    for name, words in categories.items():
        (folder / f"{name}.txt").write_text("\n".join(words))
    return str(folder)


def tokens_of(model, text: str, length: int = 64):
    return text_of(model.tokenizer(text).input_ids, length)


def spelled(model, tokens, mask) -> list[str]:
    """What the tokens of a mask spell, each run of neighbours in one text."""
    runs, ids = [], tokens.input_ids[0].tolist()
    for position in np.flatnonzero(mask[0]):
        if position and mask[0, position - 1]:
            runs[-1].append(ids[position])
        else:
            runs.append([ids[position]])
    return [model.tokenizer.decode(run).strip() for run in runs]


def test_every_occurrence_of_a_listed_word_is_in_its_group(model, tmp_path):
    folder = lists(tmp_path / "words", nouns=NOUNS, verbs=VERBS)
    experiment = GrammarTuning(Options("grammar_tuning", "", words=folder, occurrences=1, text=False))
    tokens = tokens_of(model, TEXT)
    groups = experiment.token_groups(inputs_of(model, tokens))
    assert set(groups) == {"nouns", "verbs"}
    # “house” follows a comma, “dogsled” is another word, and all three dogs count though `occurrences` is 1
    assert spelled(model, tokens, groups["nouns"].own) == ["dogs", "Dogs", "riverbank", "dogs", "house"]
    assert spelled(model, tokens, groups["verbs"].own) == ["eat", "sleep", "unravel", "Eat"]
    assert groups["nouns"].description == "occurrences of the listed nouns"
    for group in groups.values():
        starts = group.own & ~np.roll(group.own, 1, axis=1)  # no two of these words are neighbours of one category
        assert np.array_equal(group.begins, starts)
    assert groups["nouns"].own.sum() > groups["nouns"].begins.sum()  # a word of several tokens
    assert experiment.options.occurrences == 1


def test_three_categories_have_groups_too(model, tmp_path):
    folder = lists(tmp_path / "words", nouns=NOUNS, verbs=VERBS, articles=("the", "a"))
    experiment = GrammarTuning(Options("grammar_tuning", "", words=folder))
    tokens = tokens_of(model, TEXT)
    groups = experiment.token_groups(inputs_of(model, tokens))
    assert {name: len(spelled(model, tokens, group.own)) for name, group in groups.items()} == {
        "articles": 2,  # not the first word of the sequence, whose surroundings are not known
        "nouns": 5,
        "verbs": 4,
    }


def test_a_group_without_an_occurrence_is_empty(model, tmp_path):
    folder = lists(tmp_path / "words", nouns=NOUNS, verbs=VERBS)
    experiment = GrammarTuning(Options("grammar_tuning", "", words=folder))
    groups = experiment.token_groups(inputs_of(model, tokens_of(model, "Nothing of this kind, at all.")))
    assert not any(group.own.any() or group.begins.any() for group in groups.values())


class Shared(neurexp.Contrast):
    """Each word is of both categories, so that no occurrence has a label."""

    categories = ("affirmed", "negated")

    def select(self, model):
        templates = ("They will {word}", "They never {word}")
        return align(model.tokenizer, [place(word, i, one) for i, one in enumerate(templates) for word in VERBS])


class OfItsOwnText(Shared):
    def in_text(self, model, rows, text):
        return rows


@pytest.mark.parametrize("plugin", [Shared, OfItsOwnText])
def test_words_of_several_categories_or_of_another_text_have_no_groups(model, plugin):
    experiment = plugin(neurexp.ContrastOptions("shared", ""))
    assert experiment.token_groups(inputs_of(model, tokens_of(model, TEXT))) == {}


def test_the_groups_of_a_length_are_those_that_its_report_counts(model):
    tokens = tokens_of(model, TEXT, 12)
    experiment = TokenLength(LengthOptions("token_length", "", skip_positions=1, layer=0))
    groups = experiment.token_groups(inputs_of(model, tokens))
    special = set(model.tokenizer.all_special_ids)
    ids, counted = tokens.input_ids, tokens.valid.copy()
    counted[:, 0] = False
    counted &= ~np.isin(ids, list(special))
    lengths = np.array([[len(model.tokenizer.decode([one])) for one in row] for row in ids.tolist()])
    median = np.median(lengths[counted])
    assert list(groups) == ["shorter", "longer"]
    assert np.array_equal(groups["shorter"].own, counted & (lengths < median))
    assert np.array_equal(groups["longer"].own, counted & (lengths > median))
    assert np.array_equal(groups["longer"].own, groups["longer"].begins)
    assert groups["longer"].description == f"tokens above the median token length, {median:g} characters"
    _, _, report = run_experiment(experiment, model, tokens)
    for name, group in groups.items():
        assert report.metrics[f"share_{name}"] == pytest.approx(group.own.sum() / counted.sum())


def test_special_tokens_and_pads_are_in_no_group_of_a_length(model):
    end = model.tokenizer.eos_token_id
    ids = [end, *model.tokenizer("The riverbank is a very long place").input_ids, end]
    tokens = text_of(ids, 32)
    groups = TokenLength(LengthOptions("token_length", "")).token_groups(inputs_of(model, tokens))
    assert groups["longer"].own.any()
    for group in groups.values():
        assert not (group.own & (~tokens.valid | (tokens.input_ids == end))).any()


def test_a_covariate_in_place_has_groups(model):
    experiment = InPlace(ProfileOptions("in_place", ""))
    experiment.values = np.array([[0, 1, 2, 3, -1], [4, 1, 2, 9, 9]])
    tokens = replace(text_of(range(1, 11), 5), valid=np.array([[True] * 5, [True] * 3 + [False] * 2]))
    groups = experiment.token_groups(inputs_of(model, tokens))  # values 0 1 2 3 4 1 2, median 2
    assert groups["lower"].own.astype(int).tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert groups["higher"].own.astype(int).tolist() == [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]


# The experiment of a finished run


EMPTY = Report([], {}, {"layer": np.zeros(1, int)}, {"layer": np.zeros(1, int)}, {"layer": ""}, "layer")


def test_the_experiment_of_a_run_is_set_up_with_its_options(model, tmp_path):
    folder = lists(tmp_path / "words", nouns=NOUNS, verbs=VERBS)
    run = written(tmp_path / "run", EMPTY, f"experiment=grammar_tuning experiment.words={folder}")
    experiment = own_experiment(run)
    assert isinstance(experiment, GrammarTuning)
    assert set(experiment.categories) == {"nouns", "verbs"}
    assert set(experiment.token_groups(inputs_of(model, tokens_of(model, TEXT)))) == {"nouns", "verbs"}


@dataclass
class OwnOptions(neurexp.ProfileOptions):
    height: int = 3


class Own(neurexp.Profile):
    Options = OwnOptions

    def covariate(self, inputs):
        raise NotImplementedError


def test_a_plugins_run_too(tmp_path):
    plugin = "experiment=token_length experiment.plugin=test_token_groups.Own ~experiment.strip_space"
    experiment = own_experiment(written(tmp_path / "run", EMPTY, f"{plugin} +experiment.height=7"))
    assert (type(experiment).__name__, experiment.options.height) == ("Own", 7)


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        ("experiment=token_length experiment.plugin=gone.Gone", "experiment.plugin=gone.Gone: no such class"),
        ("experiment=token_length experiment.plugin=broken_plugin.X", "(invalid syntax (broken_plugin.py, line 1)"),
        ("experiment=grammar_tuning experiment.words=gone", "(experiment.words=gone: "),
    ],
)
def test_what_cannot_be_set_up_again_is_one_line(tmp_path, monkeypatch, overrides, answer):
    (tmp_path / "broken_plugin.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    run = written(tmp_path / "run", EMPTY, overrides, provenance={"working_folder": "/elsewhere"})
    with pytest.raises(UserError) as refused:
        own_experiment(run)
    told = str(refused.value)
    assert told.startswith("experiment.run=X: its experiment cannot be set up again (")
    assert answer in told
    assert told.endswith("; put back what that run read, or start in /elsewhere, where that run was started")


def test_lists_that_have_changed_since_are_refused(model, tmp_path):
    folder = lists(tmp_path / "words", nouns=NOUNS, verbs=VERBS)
    options = Options("grammar_tuning", "", words=folder, text=False)
    plan = GrammarTuning(options).prepare(inputs_of(model))
    facts = {"provenance": dict(plan.provenance)}
    run = written(tmp_path / "run", EMPTY, f"experiment=grammar_tuning experiment.words={folder}", **facts)
    inputs = replace(inputs_of(model, tokens_of(model, TEXT)), source=run)
    assert set(own_experiment(run).token_groups(inputs)) == {"nouns", "verbs"}
    (tmp_path / "words" / "nouns.txt").write_text("\n".join((*NOUNS, "ship")))
    with pytest.raises(UserError, match=r"^experiment\.run=X: its words are others now"):
        own_experiment(run).token_groups(inputs)
