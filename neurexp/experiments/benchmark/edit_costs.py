"""What an ablation costs: rounds of the cases of `ablations`, and their table, metrics and sentences.

Knows no other case of the benchmark.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from neurexp.experiments.benchmark import cases
from neurexp.experiments.benchmark.ablations import TOLERANCE, Ablations, start_layers
from neurexp.experiments.benchmark.cases import Case
from neurexp.experiments.benchmark.peers import find_ablating_peers
from neurexp.report.report import Table

log = logging.getLogger(__name__)

AIM = 1.15  # forwards × (1 − l/L) for a set of neurons
FORWARD, BLOCKS = "forward", "blocks"  # the references
SCRIPT = "script"

ABLATION_COLUMNS = {
    "edit_sets": "sets of neurons that are edited, one after another or side by side; a sixteenth of a layer's neurons "
    "each, set to zero at NEURON",
    "edit_tokens": "tokens on which each set is edited, special and padded ones included: one batch",
    "edit_head_share": "share of Hugging Face's forward that its head takes: median over rounds of 1 − seconds of the "
    "blocks alone / seconds with the head. No shortcut saves it: each edited model makes its own logits",
    "edit_effect": "largest |loss of the edited model − loss of the unedited model| of a token, in nats, over all sets "
    "in the middle layer",
    "edit_difference_script": "largest |loss by hooks on plain transformers − our loss| of a token, in nats, over all "
    "sets in the middle layer; at most 1e-4, or the benchmark stops",
    "edit_difference_transformer_lens": "the same of TransformerLens; it is left out if this is larger than 1e-4",
    "edit_difference_nnsight": "the same of nnsight",
    "edit_forwards_script": "one ablation by hooks on plain transformers, a whole forward with its own loss, in the "
    "middle layer: seconds / seconds of the forward with its head in the same round, median",
    "edit_forwards_transformer_lens": "the same of TransformerLens: run_with_hooks and its loss per token",
    "edit_forwards_nnsight": "the same of nnsight: a trace that writes zeros, and the loss of the saved logits",
    "ablations.case": "ours: neurexp's edited pass; script: plain transformers with hooks, whole forwards and its own "
    "loss, one at a time; transformer_lens: run_with_hooks with its loss per token; nnsight: a trace that writes zeros",
    "ablations.layer": "index l of the layer whose neurons are edited, of L",
    "ablations.seconds": "median over the rounds of the seconds of one set of neurons. ours: (seconds of all sets − "
    "seconds of one) / (sets − 1), so that what a pass does once for all sets is not in it",
    "ablations.seconds_min": "smallest of these",
    "ablations.seconds_max": "largest of these",
    "ablations.forwards": "median over the rounds of seconds / seconds of Hugging Face's bare forward with its head on "
    "the same tokens in the same round",
    "ablations.cost": "forwards / (1 − l/L): the part of the blocks that an edit in layer l can change. It grows in "
    "late layers, because the head is not part of what a shortcut can save. The aim is 1.15",
    "ablations.cost_with_head": "forwards / ((1 − h)(1 − l/L) + h), where h is edit_head_share: 1 is a forward of "
    "Hugging Face's from layer l on, head included",
    "ablations.cost_of_blocks": "median over the rounds of seconds of the edited blocks alone, without predictions / "
    "seconds of Hugging Face's forward without its head / (1 − l/L); only ours",
    "ablations.pass_forwards": "seconds of the whole pass over all sets, with the unedited model and the check of the "
    "shortcut / sets / seconds of the forward with its head, median; only ours",
}


def columns(layers: list[int]) -> dict[str, str]:
    """The data dictionary, with the metrics of these layers."""
    named: dict[str, str] = {}
    for layer in layers:
        named[f"edit_forwards_layer_{layer}"] = f"ablations.forwards of neurexp in layer {layer}"
        named[f"edit_cost_layer_{layer}"] = f"ablations.cost of neurexp in layer {layer}"
        named[f"edit_cost_of_blocks_layer_{layer}"] = f"ablations.cost_of_blocks of neurexp in layer {layer}"
    return ABLATION_COLUMNS | named


@dataclass
class EditCosts:
    """What was measured: seconds `[rounds]` of each case by name, and what the cases mean."""

    ablations: Ablations
    layers: list[int]
    middle: int
    peers: dict[str, str]  # case → name and version
    more: dict[str, float]  # metrics other than times
    seconds: dict[str, np.ndarray] = field(default_factory=dict)

    def table(self) -> Table:
        """`ablations.parquet`."""
        forward, depth, sets = self.seconds[FORWARD], self.ablations.depth, len(self.ablations.sets)
        head = self.head_share()
        rows = []
        for layer in self.layers:
            whole = self.seconds[f"ours_{layer}"]
            each = (whole - self.seconds[f"one_{layer}"]) / (sets - 1)
            blocks = self.seconds[f"blocks_{layer}"] / sets / self.seconds[BLOCKS] / (1 - layer / depth)
            rows.append(("ours", layer, each, np.median(blocks), np.median(whole / sets / forward)))
        rows += [
            (name, self.middle, self.seconds[name] / sets, np.nan, np.nan)
            for name in (SCRIPT, *self.peers)
            if name in self.seconds
        ]
        names, layers, seconds, blocks, whole = zip(*rows, strict=True)
        each, left = np.stack(seconds), 1 - np.array(layers) / depth
        forwards = np.median(each / forward, 1)
        return {
            "case": np.array(names),
            "layer": np.array(layers),
            "seconds": np.median(each, 1),
            "seconds_min": each.min(1),
            "seconds_max": each.max(1),
            "forwards": forwards,
            "cost": forwards / left,
            "cost_with_head": forwards / ((1 - head) * left + head),
            "cost_of_blocks": np.array(blocks),
            "pass_forwards": np.array(whole),
        }

    def head_share(self) -> float:
        """Of Hugging Face's forward."""
        return max(0.0, float(np.median(1 - self.seconds[BLOCKS] / self.seconds[FORWARD])))

    def metrics(self, table: Table) -> dict[str, float]:
        """Flat metrics of the table."""
        found = {
            "edit_sets": len(self.ablations.sets),
            "edit_tokens": self.ablations.ids.numel(),
            "edit_head_share": self.head_share(),
            **self.more,
        }
        for row, (case, layer) in enumerate(zip(table["case"], table["layer"], strict=True)):
            if case != "ours":
                found[f"edit_forwards_{case}"] = float(table["forwards"][row])
                continue
            for name in ("forwards", "cost", "cost_of_blocks"):
                found[f"edit_{name}_layer_{layer}"] = float(table[name][row])
        return found

    def findings(self, metrics: dict[str, float]) -> list[str]:
        """Two sentences: what an ablation costs, and what it costs elsewhere."""

        def each(name: str) -> str:
            return ", ".join(f"{metrics[f'edit_{name}_layer_{layer}']:.2f}" for layer in self.layers)

        sets, tokens, depth = len(self.ablations.sets), self.ablations.ids.numel(), self.ablations.depth
        lines = [
            f"Ablations: one of {sets} sets of neurons edited in layer {', '.join(map(str, self.layers))} of {depth} "
            f"over {tokens:,} tokens costs {each('forwards')} plain forwards with their head: {each('cost')} times "
            f"(1 − l/L), where {AIM} is the aim. The head is {metrics['edit_head_share']:.0%} of a forward, and every "
            "edited model makes its own logits, so this grows in late layers; the blocks alone cost "
            f"{each('cost_of_blocks')} times (1 − l/L) of a forward without head. What a pass does once (the unedited "
            "model, the check of the shortcut) is not counted."
        ]
        others = [f"plain transformers with hooks {metrics['edit_forwards_script']:.2f}"]
        others += [f"{label} {metrics[f'edit_forwards_{case}']:.2f}" for case, label in self.peers.items()]
        lines.append(
            f"The same ablations in layer {self.middle}, one at a time from the start of the model: "
            f"{'; '.join(others)} plain forwards each, ours {metrics[f'edit_forwards_layer_{self.middle}']:.2f}."
        )
        return lines


def measure(ablations: Ablations, rounds: int, peers: bool, seconds_of: Callable[[Case], float]) -> EditCosts:
    """Checks that all sides predict the same, then runs every case once in each round, in turn.

    Raises:
        RuntimeError: our losses are not those of plain transformers with hooks.
    """
    layers, middle, sets = list(start_layers(ablations.depth)), ablations.depth // 2, len(ablations.sets)
    ours = ablations.our_losses(middle)
    difference = ablations.difference(ablations.with_hooks(middle), ours)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"losses of edited models differ from those by hooks on plain transformers by {difference:.1e}"
        )
    more = {"edit_difference_script": difference, "edit_effect": float((ours[1:] - ours[0]).abs().max())}
    found = (
        find_ablating_peers(
            ablations.network, ablations.site(middle), lambda ablate: ablations.difference(ablate, ours), TOLERANCE
        )
        if peers
        else {}
    )
    more |= {f"edit_difference_{case}": difference for case, (_, _, difference) in found.items()}
    works: dict[str, Callable[[], object]] = {
        FORWARD: ablations.forward,
        BLOCKS: ablations.forward_of_blocks,
        SCRIPT: partial(ablations.by_hooks, middle),
        **{case: partial(ablations.by, ablate) for case, (_, ablate, _) in found.items()},
    }
    for layer in layers:
        works[f"ours_{layer}"] = partial(ablations.ours, layer, sets)
        works[f"one_{layer}"] = partial(ablations.ours, layer, 1)
        works[f"blocks_{layer}"] = ablations.blocks_of_ours(layer)
    turns = [Case(name, name, lambda size, work=work: work(), 1) for name, work in works.items()]
    for turn in turns[:2]:
        turn()  # warm-up; the others ran for the comparison
    result = EditCosts(ablations, layers, middle, {case: label for case, (label, _, _) in found.items()}, more)
    result.seconds = cases.take_turns(
        turns, rounds, seconds_of, lambda index: log.info("Ablations: round %d of %d", index + 1, rounds)
    )
    return result
