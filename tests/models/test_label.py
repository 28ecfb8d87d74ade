"""What titles call a model: a name that a person recognises, wherever the model lies."""

import json
from pathlib import Path

import pytest

from neurexp.errors import UserError
from neurexp.io import hub
from neurexp.models.label import label_of
from neurexp.models.locations import MINI, Location, locate_parts

HASH = "0123456789abcdef0123456789abcdef01234567"


def label_at(folder: Path, given: str | None = None, **config: str) -> str:
    """The label of a model in `folder`, whose `config.json` is `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return label_of(str(folder), Location(str(folder)), given)


def test_the_users_own_name_comes_first(tmp_path):
    assert label_at(tmp_path / "model", "My Llama, step 3", _name_or_path="org/name") == "My Llama, step 3"
    assert label_of("org/name", None, " mine ") == "mine"


@pytest.mark.parametrize("given", ["", "  ", "two\nlines", "a\x1b[31m"])
def test_a_label_that_is_no_title_is_one_line(given):
    with pytest.raises(UserError, match=r"^model.label=.*: cannot be a title; give") as error:
        label_of("mini", Location(str(MINI)), given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", ["EleutherAI/pythia-70m", "org/llama_2.1"])
def test_a_folder_is_called_by_the_hub_id_in_its_config(tmp_path, kept):
    assert label_at(tmp_path / "work" / "model", _name_or_path=kept) == kept


@pytest.mark.parametrize(
    "kept",
    ["", ".", "model", "gpt2", "./model", "/home/me/model", "~/x", "outputs/mine", "mine/checkpoint-500", "a/b/c",
     "org/model", "here/there"],
)  # fmt: skip
def test_a_path_in_its_config_is_no_name(tmp_path, monkeypatch, kept):
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert label_at(tmp_path / "work" / "smollm2", _name_or_path=kept) == "work/smollm2"


def test_a_folder_is_called_by_the_last_two_parts_of_its_path(tmp_path, monkeypatch):
    assert label_at(tmp_path / "mine" / "model") == "mine/model"
    assert label_at(tmp_path / "mine" / HASH / "model") == "mine/model"
    monkeypatch.chdir(tmp_path / "mine" / "model")
    for name in (".", "../model"):
        location, _ = locate_parts(name, "main", "mini", "random", False)
        assert label_of(name, location) == "mine/model"
    assert label_of("/model", Location("/model")) == "/model"


def test_a_snapshot_of_the_hub_is_called_by_the_hub_id(tmp_path):
    assert label_at(tmp_path / "models--org--my-model" / "snapshots" / HASH) == "my-model"


def test_a_gguf_file_is_called_by_its_name(tmp_path):
    for name, label in (("Tiny-1B.Q4_1.gguf", "Tiny-1B.Q4_1"), ("model.GGUF", f"{tmp_path.name}/model")):
        (tmp_path / name).write_bytes(b"GGUF")
        assert label_of(str(tmp_path / name), Location(str(tmp_path / name))) == label


def test_a_hub_id_is_called_by_its_last_part():
    repository = hub.Repository("EleutherAI/pythia-70m", "main", "model", HASH)
    assert label_of("EleutherAI/pythia-70m", Location(str(repository.folder), repository)) == "pythia-70m"
    assert label_of("EleutherAI/gpt-neo-125m", None) == "gpt-neo-125m"
    assert label_of("org/model", None) == "org/model"
    assert label_of("mini", Location(str(MINI))) == "mini"
