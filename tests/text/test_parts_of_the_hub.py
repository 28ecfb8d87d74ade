"""A dataset of the Hub is tokenised in parts, which are row groups of its files, into the tokens of one process."""

import json
import sys

import pytest
from conftest import run_in
from hub import Hub
from make_repos import make_fineweb
from pyarrow import parquet

NAME = "HuggingFaceFW/fineweb"
SCRIPT = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
from neurexp.config.schema import DatasetConfig, Source
from neurexp.models.locations import MINI
from neurexp.text import parts
from neurexp.text.running_text import read_text

parts.PART, made, tokenised = 1, [], parts._tokenised

def noted(source, part, *others):
    made.append([(piece.file, piece.groups.start) for piece in part])
    return tokenised(source, part, *others)

parts._tokenised = noted
tokenizer = AutoTokenizer.from_pretrained(MINI)
config = DatasetConfig(
    source=Source.hub, name=sys.argv[1], subset="sample-10BT", split="train", tokens=300, sequence_length=32
)
one, two = (read_text(config, tokenizer, False, Path(f"{count}"), count) for count in (1, 2))
json.dump({"same": one.hash == two.hash and (one.starts == two.starts).all().item(), "documents": [one.documents,
    two.documents], "made": made, "count": two.count}, open("found.json", "w"))
"""


@pytest.mark.slow
def test_row_groups_of_a_dataset_on_the_hub_are_parts(tmp_path, monkeypatch):
    documents = [" ".join(["a", "document", "of", "some", "words"] * (1 + number % 5)) for number in range(60)]
    folder = make_fineweb(tmp_path / "repository", documents, shards=2)
    for file in folder.rglob("*.parquet"):
        parquet.write_table(parquet.read_table(file), file, row_group_size=6)
    with Hub(datasets={NAME: folder}) as hub:
        (tmp_path / "script.py").write_text(SCRIPT)
        monkeypatch.setattr("conftest.NO_HUB", hub.url)
        process = run_in(tmp_path, sys.executable, "script.py", NAME)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["same"]
    assert found["count"] == 300
    assert found["documents"][0] == found["documents"][1]
    assert [part[0] for part in found["made"]] == [[0, group] for group in range(len(found["made"]))]
    assert 2 <= len(found["made"]) < 5  # of ten row groups
