"""What a packed sequence looks like, against what the model's own tokenizer does with `add_special_tokens=True`."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from neurexp.config.schema import DatasetConfig, Source
from neurexp.errors import UserError
from neurexp.text.running_text import read_text
from neurexp.text.spans import align, place
from neurexp.text.tokenizer import added_tokens
from neurexp.text.tokens import pack

DOCUMENTS = ["a house and a tree", "the house", "a tree", "and the tree and a house and a tree"]
WORDS = sorted({word for document in DOCUMENTS for word in document.split()})


def built(folder: Path, template: str, *special: str, **settings: str) -> PreTrainedTokenizerBase:
    """A tokenizer of words, saved to a folder and loaded as a user's is. `template` says what it adds by itself."""
    names = ["<unk>", *special]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*names, *WORDS])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(names)
    pairs = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **settings).save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded("a")["input_ids"] == backend.encode("a").ids  # transformers kept the template
    return loaded


# The template, the special tokens, their names, what a sequence begins with, and what joins documents
KINDS = {
    "adds none, as GPT-NeoX's": ("$A", ["<e>"], {"bos_token": "<e>", "eos_token": "<e>"}, [], ["<e>"]),
    "adds BOS, as Llama's": ("<s> $A", ["<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>"}, ["<s>"], ["</s>"]),
    "adds BOS = EOS = PAD": (
        "<e> $A",
        ["<e>"],
        {"bos_token": "<e>", "eos_token": "<e>", "pad_token": "<e>"},
        ["<e>"],
        ["<e>"],
    ),
    "adds both": ("<s> $A </s>", ["<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>"}, ["<s>"], ["</s>"]),
    "adds EOS only, as T5's": ("$A </s>", ["</s>"], {"eos_token": "</s>"}, [], ["</s>"]),
    "adds CLS and SEP, as BERT's": (
        "[CLS] $A [SEP]",
        ["[CLS]", "[SEP]"],
        {"cls_token": "[CLS]", "sep_token": "[SEP]"},
        ["[CLS]"],
        ["[SEP]"],
    ),
    "adds another than its EOS": ("$A <end>", ["</s>", "<end>"], {"eos_token": "</s>"}, [], ["<end>"]),
    "adds two, as GLM's": ("<m> <s> $A", ["<m>", "<s>", "</s>"], {"eos_token": "</s>"}, ["<m>", "<s>"], ["</s>"]),
    "has no BOS": ("$A", ["</s>"], {"eos_token": "</s>"}, [], ["</s>"]),
    "is a chat's, as SmolLM2-Instruct's": (
        "$A",
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "chat_template": "{{ '<|im_start|>' + messages[0]['content'] + '<|im_end|>' }}",
        },
        [],
        ["<|endoftext|>"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_is_what_the_tokenizer_itself_makes_of_the_text(tmp_path, kind):
    template, special, settings, first, joint = KINDS[kind]
    tokenizer = built(tmp_path, template, *special, **settings)
    begins = bool(added_tokens(tokenizer)[0])
    # One document in one sequence: exactly as the tokenizer's own, without what it puts after the text
    own = tokenizer(DOCUMENTS[0], add_special_tokens=True)["input_ids"]
    own = own[: len(own) - len(template.split("$A")[1].split())]
    packed = pack(DOCUMENTS[:1], tokenizer, len(own), len(own), begins)
    assert packed.input_ids.tolist() == [own]
    # Several documents over several sequences, of which the last is padded
    stream: list[str] = []
    for number, document in enumerate(DOCUMENTS):
        stream += [*(joint if number else []), *document.split()]
    rows = [[*first, *stream[start : start + 10 - len(first)]] for start in range(0, len(stream), 10 - len(first))]
    assert len(rows[-1]) < 10
    packed = pack(DOCUMENTS, tokenizer, sum(map(len, rows)), 10, begins)
    parts = [ids[ok].tolist() for ids, ok in zip(packed.input_ids, packed.valid, strict=True)]
    found = [tokenizer.convert_ids_to_tokens(part) for part in parts]
    assert found == rows
    assert packed.skipped == ()  # no special token is taken for unknown text
    with pytest.raises(UserError, match=f"the text has only {packed.count} tokens"):
        pack(DOCUMENTS, tokenizer, packed.count + 1, 10, begins)
    # Words in a template begin in the same way
    words = align(tokenizer, [place("house", 0, "the {word}")], begins)
    assert words.tokens.input_ids.tolist() == [tokenizer.convert_tokens_to_ids([*first, "the", "house"])]
    assert (words.start.tolist(), words.stop.tolist()) == ([len(first) + 1], [len(first) + 2])


@pytest.mark.parametrize("tokens", range(1, 15))
def test_any_number_of_tokens_comes_out_where_a_sequence_begins_with_two(tmp_path, tokens):
    template, special, settings, _, _ = KINDS["adds two, as GLM's"]
    tokenizer = built(tmp_path, template, *special, **settings)
    packed = pack(DOCUMENTS, tokenizer, tokens, 4, True)
    assert packed.count == tokens
    begin = tokenizer.convert_tokens_to_ids(["<m>", "<s>"])
    for ids, valid in zip(packed.input_ids.tolist(), packed.valid.sum(1).tolist(), strict=True):
        assert ids[: min(2, valid)] == begin[:valid]
        assert set(ids[valid:]) <= {tokenizer.eos_token_id}
    with pytest.raises(UserError, match=r"^dataset\.sequence_length=2: .* give 3 or more, or dataset\.bos=false"):
        pack(DOCUMENTS, tokenizer, 8, 2, True)


def test_a_tokenizer_without_an_end_of_text_joins_documents_only_where_told(tmp_path):
    tokenizer = built(tmp_path, "$A", "<s>", bos_token="<s>")
    with pytest.raises(UserError, match=r"^model\.tokenizer: .*end-of-text.*dataset\.eos=false"):
        pack(DOCUMENTS, tokenizer, 6, 6)
    packed = pack(DOCUMENTS, tokenizer, 7, 7, eos=False)
    assert " ".join(tokenizer.convert_ids_to_tokens(packed.input_ids[0].tolist())) == "a house and a tree the house"


def test_the_real_tokenizers_do_not_begin_a_text_with_anything(data):
    gpt2 = AutoTokenizer.from_pretrained(data / "gpt2-tokenizer")
    assert gpt2.eos_token == "<|endoftext|>"
    text = "Call me Ishmael."
    packed = pack([text, text], gpt2, 11, 11)
    own = gpt2(text, add_special_tokens=True)["input_ids"]
    assert packed.input_ids.tolist() == [[*own, gpt2.eos_token_id, *own][:11]]
    adding = AutoTokenizer.from_pretrained(data / "gpt2-tokenizer", add_bos_token=True)
    own = adding(text, add_special_tokens=True)["input_ids"]
    assert own[0] == adding.bos_token_id
    assert added_tokens(adding) == ([adding.bos_token_id], [])
    assert pack([text], adding, len(own), len(own), True).input_ids.tolist() == [own]


def test_kept_tokens_are_shared_by_no_two_settings(tmp_path):
    template, special, settings, _, _ = KINDS["is a chat's, as SmolLM2-Instruct's"]
    tokenizer = built(tmp_path / "tokenizer", template, *special, **settings)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS))
    found = {}
    for bos in (False, True):
        for eos in ("auto", True, False):
            dataset = DatasetConfig(Source.files, 12, 6, path=str(tmp_path / "text.jsonl"), eos=eos)
            found[bos, eos] = read_text(dataset, tokenizer, bos, tmp_path / "cache")
            again = read_text(dataset, tokenizer, bos, tmp_path / "cache")
            assert np.array_equal(again.input_ids, found[bos, eos].input_ids)
    assert len({one.hash for one in found.values()}) == len(found)
    ends = {eos: set(tokenizer.convert_ids_to_tokens(found[False, eos].input_ids.ravel())) for eos in ("auto", True)}
    assert "<|endoftext|>" in ends["auto"] - ends[True]
    assert "<|im_end|>" in ends[True] - ends["auto"]
    # The tokenizer's file is the same, and only its chat template says that its EOS is a chat's
    tokenizer.chat_template = None
    dataset = DatasetConfig(Source.files, 12, 6, path=str(tmp_path / "text.jsonl"))
    assert read_text(dataset, tokenizer, False, tmp_path / "cache").hash == found[False, True].hash
