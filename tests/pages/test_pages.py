"""Folders of pages: what is read from a run, what is written, and what is refused. The browser has its own file."""

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_contexts import DOG, HOSTILE, MODEL_HASH, TOKENS, made_contexts
from made_runs import made_run

from neurexp.errors import UserError
from neurexp.io.files import read_table
from neurexp.pages import read, write_of
from neurexp.pages.others import others_of
from neurexp.pages.pieces import ALPHABET, level_text, script_of
from neurexp.pages.texts import readable
from neurexp.pages.writing import CARDS, write


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    made_contexts(folder)
    return folder


def piece(pages: Path, name: str):
    """The content that a piece hands to the page."""
    text = (pages / "data" / f"{name}.js").read_text("utf-8")
    found = re.fullmatch(r'take\("(\w+)",(.*)\);\n', text, re.DOTALL)
    assert found is not None
    assert found[1] == name
    return json.loads(found[2])


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_contexts_are_read_as_they_were_written(run):
    subject, table = read(run), read_table(run / "contexts.parquet")
    assert subject.values.shape == (2, 2, 8, 4)
    for row in range(0, len(table["layer"]), 7):
        at = (
            [0, 3].index(table["layer"][row]),
            int(table["end"][row] == "bottom"),
            table["neuron"][row],
            table["rank"][row],
        )
        assert subject.values[at] == table["value"][row]
        sequence, position = divmod(int(subject.places[at]), subject.length)
        assert subject.input_ids[sequence, position] == table["token_id"][row] == subject.token_ids[at]
        assert position == table["position"][row]


def test_the_pages_tell_every_context_with_its_text_and_levels(run, tmp_path):
    write_of(run, tmp_path, "made on text")
    subject, meta, cards = read(run), piece(tmp_path, "meta"), piece(tmp_path, "cards_0")
    counts, values = unpacked(cards["counts"], "<u2"), unpacked(cards["values"], "<f4")
    assert counts.tolist() == [4] * 32
    assert np.array_equal(values, np.moveaxis(subject.values, 1, 2).ravel())
    places, window = unpacked(cards["places"], "<u4"), meta["before"] + 1 + meta["after"]
    texts = piece(tmp_path, "texts_0")
    planted = (8 + 1) * 2 * 4  # the first top context of layer 3, neuron 1
    sequence, position = divmod(int(places[planted]), meta["length"])
    assert texts[sequence][position] == " dog"
    levels = cards["levels"][planted * window : (planted + 1) * window]
    shown = [None if one == " " else (ALPHABET.index(one) - 45) * 100 / 45 for one in levels]
    wanted = subject.levels[1, 0, 1, 0].tolist()
    assert len(shown) == len(wanted)
    assert all(
        (one is None) == (two == -128) and (one is None or abs(one - two) <= (1.3 if abs(two) == 99 else 100 / 90))
        for one, two in zip(shown, wanted, strict=True)
    )
    assert max(one for one in shown if one is not None) == shown[meta["before"]] == 100


def test_every_column_is_there_with_its_meaning_and_values(run, tmp_path):
    write_of(run, tmp_path, "made on text")
    meta, table = piece(tmp_path, "meta"), read_table(run / "neurons.parquet")
    assert [one["name"] for one in meta["columns"]] == [name for name in table if name not in ("layer", "neuron")]
    for index, one in enumerate(meta["columns"]):
        content = piece(tmp_path, f"column_{index}")
        assert one["meaning"] == f"what {one['name']} means, in the model's own units"
        if one["text"]:
            found = np.array(content["words"])[unpacked(content["codes"], "<u4")]
            known = np.array([word.replace("\n", "⏎") for word in table[one["name"]]])
            plain = np.array([word.isprintable() for word in known])
            assert plain.any()
            assert np.array_equal(found[plain], known[plain])
        else:
            assert np.array_equal(unpacked(content["numbers"], "<f4"), table[one["name"]].astype("<f4"), equal_nan=True)


def test_pieces_are_cut_where_they_say_and_hold_every_neuron(tmp_path):
    made_contexts(tmp_path / "run", layers=(0,), neurons=CARDS + 3, k=1, sequences=4, direct=0, histogram=False)
    (tmp_path / "pages").mkdir()
    write_of(tmp_path / "run", tmp_path / "pages", "made")
    counted = [len(unpacked(piece(tmp_path / "pages", f"cards_{one}")["counts"], "<u2")) // 2 for one in (0, 1)]
    assert counted == [CARDS, 3]
    assert not (tmp_path / "pages" / "data" / "cards_2.js").exists()
    assert "direct" not in piece(tmp_path / "pages", "cards_0")


def test_every_card_is_that_of_its_own_neuron(tmp_path):
    """Pieces end within a layer: what is in them still belongs to the neuron that they say."""
    width, k = CARDS // 2 + 5, 2
    made_contexts(tmp_path / "run", neurons=width, k=k, sequences=4)
    (tmp_path / "pages").mkdir()
    write_of(tmp_path / "run", tmp_path / "pages", "made")
    meta, subject = piece(tmp_path / "pages", "meta"), read(tmp_path / "run")
    neurons, direct = read_table(tmp_path / "run" / "neurons.parquet"), read_table(tmp_path / "run" / "direct.parquet")
    cards = [piece(tmp_path / "pages", f"cards_{one}") for one in range(-(-2 * width // CARDS))]
    names = [name for name in meta["statistics"] if name not in cards[0]["words"]]
    for row in range(2 * width):
        card, place, at = cards[row // CARDS], row % CARDS, divmod(row, width)
        numbers = unpacked(card["numbers"], "<f4").reshape(-1, len(names))[place]
        assert np.array_equal(numbers, [np.float32(neurons[name][row]) for name in names], equal_nan=True)
        assert card["words"]["property"][place] == neurons["property"][row]
        assert (unpacked(card["counts"], "<u2")[2 * place : 2 * place + 2] == k).all()
        for name in ("values", "places"):
            found = unpacked(card[name], "<f4" if name == "values" else "<u4").reshape(-1, 2, k)[place]
            assert np.array_equal(found, getattr(subject, name)[at[0], :, at[1]])
        own = slice(row * 6, (row + 1) * 6)  # three promoted, then three suppressed
        assert (direct["layer"][own] == neurons["layer"][row]).all()
        assert (direct["neuron"][own] == at[1]).all()
        assert np.array_equal(unpacked(card["direct"]["effects"], "<f4").reshape(-1, 6)[place], direct["effect"][own])
        readable_ones = [index for index in range(6) if direct["token"][own][index].isprintable()]
        tokens = [token for end in card["direct"]["tokens"][place] for token in end]
        assert [tokens[one] for one in readable_ones] == [direct["token"][own][one] for one in readable_ones]
        counts = unpacked(card["histogram"]["counts"], "<u4").reshape(-1, meta["bins"])[place]
        assert np.array_equal(counts, subject.histograms["counts"][at])


def test_sequences_are_in_the_pieces_that_the_page_looks_in(run, tmp_path, monkeypatch):
    subject = read(run)
    monkeypatch.setattr("neurexp.pages.writing.TOKENS", 2 * subject.length + 1)
    write_of(run, tmp_path, "made")
    each, count = piece(tmp_path, "meta")["sequences"], len(subject.input_ids)
    pieces = [piece(tmp_path, f"texts_{one}") for one in range(-(-count // each))]
    assert len(pieces) > 2
    assert [pieces[one // each][one % each] for one in range(count)] == [subject.texts(one) for one in range(count)]


def test_characters_cut_into_tokens_are_whole_and_what_moves_others_is_gone():
    pizza, quote = list("🍕".encode()), list("’".encode())
    parts = [
        b"don",
        *(bytes([one]) for one in quote),
        b"t",
        b" ",
        *(bytes([one]) for one in pizza),
        b"\n",
        "\u202e".encode(),
    ]
    assert readable(parts) == ["don", "’", "", "", "t", " ", "🍕", "", "", "", "⏎", "·"]
    assert readable([bytes([quote[1]]), bytes([quote[2]]), b"t"]) == ["·", "·", "t"]  # the sequence begins within one
    assert readable([]) == []
    assert readable(["é a".encode()[:1], "é a".encode()[1:], b"b"]) == ["é", " a", "b"]


def test_hostile_texts_leave_no_way_out_of_their_strings(run, tmp_path):
    write_of(run, tmp_path, HOSTILE)
    for file in tmp_path.rglob("*.js"):
        if file.parent.name == "data":
            content = file.read_text("utf-8")
            assert "<" not in content
            assert not re.search("[\u2028\u2029\u202e]", content)
    assert piece(tmp_path, "meta")["title"] == HOSTILE
    assert any(HOSTILE in row for row in piece(tmp_path, "texts_0"))
    assert HOSTILE not in (tmp_path / "index.html").read_text("utf-8")


def test_a_script_holds_what_it_was_given_and_no_way_out():
    given = {"a": ["</script><!--", "\u2028\u2029", 'é\\"']}
    assert json.loads(script_of(given)) == given
    assert not re.search("[<\u2028\u2029]", script_of(given))


def test_levels_keep_their_sign_their_order_and_what_is_missing():
    levels = np.arange(-128, 128).astype(np.int8)
    text = level_text(levels)
    assert text[0] == " "
    assert set(text[1:]) == set(ALPHABET)
    order = [ALPHABET.index(one) for one in text[28:229]]
    assert order == sorted(order)
    assert ALPHABET.index(text[128]) == 45  # of level 0
    assert (order.count(0), order.count(90)) == (1, 1)  # of ±100 alone
    assert not set(ALPHABET) & set('"\\< ')


def test_the_site_of_a_run_of_several_is_chosen(tmp_path):
    made_contexts(tmp_path / "run", site="ACT")
    planted = {site: read(tmp_path / "run", site).values[1, 0, 1, 0] for site in ("MLP", "ACT")}
    assert planted["MLP"] > 5 > planted["ACT"]
    with pytest.raises(UserError, match=r"run: is of several sites; give --site, in Python site=, one of ACT, MLP$"):
        read(tmp_path / "run")
    with pytest.raises(UserError, match=r"--site UP: .*run has no such site; give one of ACT"):
        read(tmp_path / "run", "UP")


def test_a_site_that_a_run_of_one_does_not_have_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"^--site NOPE: X has no such site; give one of MLP$"):
        read(run, "NOPE", "X")
    write_of(run, tmp_path, "made on text", "MLP")
    assert piece(tmp_path, "meta")["title"] == "made on text, MLP"


def test_other_folders_and_damaged_files_are_one_line(run, tmp_path):
    made_run(tmp_path / "other", {"layer": [0], "neuron": [0], "r": [0.1]}, "r")
    with pytest.raises(UserError, match=r"^X: is no run of experiment=top_contexts \(contexts.parquet, .*missing"):
        read(tmp_path / "other", given="X")
    for name, content in (("windows.safetensors", b"x"), ("contexts.parquet", b"PAR1"), ("vocabulary.parquet", b"")):
        shutil.copytree(run, tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(UserError, match=r"^X: its contexts cannot be read \(") as error:
            read(tmp_path / name, given="X")
        assert "\n" not in str(error.value)


def test_tables_that_do_not_fit_each_other_are_refused(run, tmp_path):
    made_contexts(tmp_path / "less", neurons=7)
    shutil.copytree(run, tmp_path / "mixed")
    shutil.copy(tmp_path / "less" / "neurons.parquet", tmp_path / "mixed")
    with pytest.raises(UserError, match=r"does not fit windows.safetensors"):
        read(tmp_path / "mixed")


def test_a_neuron_that_is_not_there_is_one_line(run):
    subject = read(run)
    assert subject.row(3, 1) == 9
    with pytest.raises(UserError, match=r"^1/1: .*no layer 1; give one of 0, 3$"):
        subject.row(1, 1)
    with pytest.raises(UserError, match=r"^3/8: .*neurons 0 to 7"):
        subject.row(3, 8)


def other(folder: Path, **changes):
    """A run over layers 3 and 2 of the same model, with neuron 1 of layer 3 the second largest by magnitude."""
    neurons = {
        "layer": [3] * 8 + [2] * 8, "neuron": [*range(8)] * 2, "q_size": np.linspace(0, 1, 16),
        "r_size": [0.1, -0.8, 0.9, 0.1, 0.2, np.nan, 0.3, 0.4, *[5] * 8],
    }  # fmt: skip
    made_run(folder, neurons, "r_size", provenance={"model_hash": MODEL_HASH}, experiment="sizes", **changes)


def test_other_runs_tell_their_statistic_its_q_and_its_rank(run, tmp_path):
    from neurexp.report.finished import read_finished

    other(tmp_path / "sizes")
    runs = [read_finished(tmp_path / "sizes", "X")] * 2
    first, second = others_of(read(run), "MLP", MODEL_HASH, runs)
    assert (first.name, second.name, first.statistic, first.q) == ("sizes", "sizes_2", "r_size", "q_size")
    assert np.isnan(first.values[:8]).all()
    assert first.values[8:].tolist()[:5] == [0.1, -0.8, 0.9, 0.1, 0.2]
    assert first.ranks[8:].tolist()[:5] == [6, 2, 1, 6, 5]
    assert np.isnan(first.ranks[13])
    (tmp_path / "pages").mkdir()
    write(read(run), tmp_path / "pages", "made", [first, second])
    meta = piece(tmp_path / "pages", "meta")
    names = [one["name"] for one in meta["columns"]]
    assert names[-6:] == [f"{name}.{one}" for name in ("sizes", "sizes_2") for one in ("r_size", "q_size", "rank")]
    assert meta["shown"][-2:] == ["sizes.r_size", "sizes_2.r_size"]


def test_other_runs_are_read_by_layer_and_neuron_in_whatever_order(run, tmp_path):
    """A neuron that the pages do not have, the ninth of layer 0, is not taken for the first of the next layer."""
    neurons = {"layer": [3, 0, 0, 3, 1], "neuron": [5, 7, 8, 2, 0], "r": [0.1, -0.2, 0.9, 0.3, 0.8]}
    made = made_run(tmp_path / "run", neurons, "r", provenance={"model_hash": MODEL_HASH})
    (found,) = others_of(read(run), "MLP", MODEL_HASH, [made])
    expected = np.full(16, np.nan)
    expected[[7, 8 + 2, 8 + 5]] = -0.2, 0.3, 0.1
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.ranks[[7, 8 + 2, 8 + 5]], [1, 1, 2])


@pytest.mark.parametrize(
    ("statistic", "columns", "q"),
    [
        ("r_size", ["q_size", "q_size_all"], "q_size"),
        ("ev_token", ["q_length", "q_token"], "q_token"),
        ("size", ["q_other", "q_size"], "q_size"),
        ("share_context", ["q_pairs", "q_context"], ""),
        ("cohens_d", ["q_welch", "q_d"], ""),
    ],
)
def test_only_the_statistics_own_q_is_shown(run, tmp_path, statistic, columns, q):
    neurons = {"layer": [3, 3], "neuron": [0, 1], statistic: [0.5, 0.1], **{name: [0.1, 0.2] for name in columns}}
    made = made_run(tmp_path / "run", neurons, statistic, provenance={"model_hash": MODEL_HASH})
    (found,) = others_of(read(run), "MLP", MODEL_HASH, [made])
    assert found.q == q
    assert np.isnan(found.q_values).all() == (q == "")


def test_sites_that_number_their_neurons_alike_go_together_and_others_are_refused(run, tmp_path):
    from neurexp.report.finished import read_finished

    other(tmp_path / "sizes")
    sizes = read_finished(tmp_path / "sizes", "X")  # of MLP
    assert len(others_of(read(run), "NEURON", MODEL_HASH, [sizes])) == 1
    with pytest.raises(
        UserError, match=r"^X: its site MLP has other neurons than RESID_POST; give runs of RESID_POST$"
    ):
        others_of(read(run), "RESID_POST", MODEL_HASH, [sizes])
    with pytest.raises(UserError, match=r"^X: is of another model than .* give runs of the same one$"):
        others_of(read(run), "MLP", "b" * 64, [sizes])


def test_a_neuron_that_was_ablated_alone_has_its_effects(run, tmp_path):
    from neurexp.io.files import write_table
    from neurexp.report.finished import read_finished

    other(tmp_path / "sizes")
    effects = {
        "neurons": ["3.1", "3.1 3.2", "3.1"],
        "kind": ["mean"] * 3,
        "tokens": ["all", "all", "own: verbs"],
        "p": [0.1, 0.2, 0.3],
    }
    effects |= {name: [0.5, 0.6, 0.7] for name in ("delta_loss", "delta_loss_low")}
    effects["delta_loss_high"] = [np.nan, 0.6, 0.7]  # an interval needs several sequences
    write_table(tmp_path / "sizes" / "effects.parquet", {name: np.array(values) for name, values in effects.items()})
    (found,) = others_of(read(run), "MLP", MODEL_HASH, [read_finished(tmp_path / "sizes", "X")])
    assert list(found.effects) == ["3.1"]
    assert [(one["tokens"], one["delta_loss"], one["p"]) for one in found.effects["3.1"]] == [
        ("all", 0.5, 0.1),
        ("own: verbs", 0.7, 0.3),
    ]
    write(read(run), tmp_path, "made", [found])
    (told,) = piece(tmp_path, "meta")["others"]
    assert [one["delta_loss_high"] for one in told["effects"]["3.1"]] == [None, 0.7]


def test_fewer_contexts_than_k_are_no_contexts(run, tmp_path):
    subject = read(run)
    places, values = subject.places.copy(), subject.values.copy()
    places[0, 0, 2, 1:], values[0, 0, 2, 1:] = -1, np.nan
    places[0, 1, 2], values[0, 1, 2] = -1, np.nan
    write(replace(subject, places=places, values=values), tmp_path, "made")
    cards = piece(tmp_path, "cards_0")
    counts = unpacked(cards["counts"], "<u2")
    assert counts[4:6].tolist() == [1, 0]
    assert len(unpacked(cards["values"], "<f4")) == counts.sum() == 16 * 8 - 7
    assert len(cards["levels"]) == counts.sum() * 9


def test_a_nul_at_the_end_of_a_token_is_seen(run, tmp_path):
    subject = read(run)
    tokens = np.array(["a", "a\0"] * 8, dtype=object)
    write(replace(subject, neurons=subject.neurons | {"top_token": tokens}), tmp_path, "made")
    assert piece(tmp_path, "cards_0")["words"]["top_token"] == ["a", "a·"] * 8


def test_the_search_knows_the_tokens_of_the_top_contexts(run, tmp_path):
    write_of(run, tmp_path, "made on text")
    search = piece(tmp_path, "search")
    codes = unpacked(search["codes"], "<u4").reshape(-1, search["each"])
    assert [search["words"][one] for one in codes[9]] == [TOKENS[DOG].decode()] * 4
