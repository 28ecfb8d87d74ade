"""Small repositories in the shape of the ones the project reads from the Hugging Face Hub, for tests to serve."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

SENTENCES = [
    "A neuron answers to some words and stays silent for the others.",
    "The river rose in the night, and by morning the lower fields were under water.",
    "She counted 12 boxes, 7 lamps and 305 small nails before closing the shop.",
    "Nobody knew why the old clock in the square had stopped at a quarter past nine.",
    "To read a file, open it, look at every line, and close it when you are done.",
    "Bread, salt, onions and a little oil: that was dinner on most days of the winter.",
]

FINEWEB_CARD = """\
---
license: odc-by
language:
- en
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---

# A few documents in the shape of FineWeb
"""

FINEWEB_SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "id": pa.string(),
        "dump": pa.string(),
        "url": pa.string(),
        "date": pa.string(),
        "file_path": pa.string(),
        "language": pa.string(),
        "language_score": pa.float64(),
        "token_count": pa.int64(),
    }
)


def make_gpt_neo(folder: Path, *, layers: int = 4, width: int = 32, heads: int = 4, seed: int = 0) -> Path:
    """Write a GPT-Neo with random weights and its own small tokenizer, and return the folder.

    Global and local layers alternate, with the released models' window of 256 and 2048 positions.
    """
    tokenizer = _train_tokenizer()
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        attention_types=[[["global", "local"], layers // 2]],
        window_size=256,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTNeoForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=2048,
    )


def make_fineweb(folder: Path, documents: Sequence[str], *, shards: int = 1, large: int | None = None) -> Path:
    """Write the documents as the shards of the configuration `sample-10BT`, in order, and return the folder.

    The rows of the shard `large` have a `file_path` of 4 MB each, and lie in row groups of two: it is read in several
    requests, as all of the real ones are, because pyarrow joins what is less than 32 MB.
    The configuration `default` has one shard too, with the first document only, so that reading the wrong one shows.
    """
    rows = [_fineweb_row(index, text) for index, text in enumerate(documents)]
    per_shard = max(-(-len(rows) // shards), 1)
    for shard in range(shards):
        part = rows[shard * per_shard : (shard + 1) * per_shard]
        if shard == large:
            noise = random.Random(0)
            part = [row | {"file_path": noise.randbytes(2_000_000).hex()} for row in part]
        _write_parquet(folder / "sample" / "10BT" / f"{shard:03d}_00000.parquet", part, 2 if shard == large else None)
    _write_parquet(folder / "data" / "CC-MAIN-2024-10" / "000_00000.parquet", rows[:1])
    (folder / "README.md").write_text(FINEWEB_CARD, encoding="utf-8")
    return folder


def _fineweb_row(index: int, text: str) -> dict[str, str | float | int]:
    digest = hashlib.md5(f"{index} {text}".encode(), usedforsecurity=False).hexdigest()
    return {
        "text": text,
        "id": f"<urn:uuid:{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}>",
        "dump": "CC-MAIN-2024-10",
        "url": f"https://example.com/{index}",
        "date": "2024-02-21T00:00:00Z",
        "file_path": "s3://commoncrawl/crawl-data/CC-MAIN-2024-10/segments/0/warc/0.warc.gz",
        "language": "en",
        "language_score": 0.95,
        "token_count": len(text.split()),
    }


def _write_parquet(path: Path, rows: list[dict[str, str | float | int]], row_group_size: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=FINEWEB_SCHEMA), path, row_group_size=row_group_size)
