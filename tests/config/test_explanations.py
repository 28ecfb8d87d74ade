"""What `--help` and docs/options.md say of every option."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig  # noqa: F401 (the runtime's choices are its)

from neurexp.config.explanations import as_help, as_markdown, choices_of, described, explained
from neurexp.config.schema import CONFIG_FOLDER, register_schema

DOCS = Path(__file__).parents[2] / "docs"
EXPERIMENTS = choices_of([CONFIG_FOLDER])["experiment"]


def composed(experiment: str):
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", [f"experiment={experiment}", "model=mini", "dataset=pydoc"])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_option_of_every_experiment_is_explained(experiment):
    options = explained(composed(experiment), {"experiment": experiment}, [CONFIG_FOLDER])
    assert [name for name, (_, text) in options.items() if not text] == []
    assert {"model.name", "run.seed", "experiment.site", "experiment.layer"} <= set(options)
    assert not {"experiment.plugin", "experiment.name", "tracking.backend"} & set(options)


def test_every_choice_of_every_group_is_described():
    for group, names in choices_of([CONFIG_FOLDER]).items():
        assert [name for name in names if not described([CONFIG_FOLDER], group, name)] == []


def test_a_value_is_shown_as_it_is_typed():
    options = explained(composed("context"), {"experiment": "context"}, [CONFIG_FOLDER])
    assert options["experiment.neutral"][0] == '"\\n"'
    assert options["experiment.prompt"][0] == "null"
    assert options["device.dtype"][0] == "float32"
    assert options["run.reuse"][0] == "true"


def test_help_fits_and_names_another_experiments_options():
    text = as_help(composed("maximise"), {"experiment": "maximise"}, [CONFIG_FOLDER])
    options = text.partition("== Options")[2].splitlines()
    assert max(map(len, options)) <= 118
    assert "experiment.starts=" in text
    assert "experiment.skip_positions" not in text


def test_a_users_own_experiment_is_explained_from_its_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# Which neurons hum? They may.\ndefaults:\n  - /contrast@_here_\n  - _self_\nname: mine\n"
        "plugin: mine.Mine\nlayer: 3 # of the humming\n"
    )
    folders = [CONFIG_FOLDER, tmp_path]
    config = composed("grammar_tuning")
    config.experiment.layer = 3
    options = explained(config, {"experiment": "mine"}, folders)
    assert options["experiment.layer"] == ("3", "of the humming")
    assert options["experiment.splits"][1].startswith("of the rows in two halves")
    assert described(folders, "experiment", "mine") == "Which neurons hum?"


def test_the_page_of_options_is_made_from_the_comments_of_today():
    """If this fails: python -m neurexp.config.explanations > docs/options.md"""
    assert (DOCS / "options.md").read_text("utf-8") == as_markdown(CONFIG_FOLDER)
