"""Identities: do a model's activations add up as its architecture says? A check of a new model, and of a family.

Every identity compares two ways to the same activations of one layer. One way is a capture of neurexp, the other
transformers' own hidden states, a sum of captures, or a capture of other inputs. A deviation is the largest
‖a − b‖ / ‖b‖ over the tokens, where ‖·‖ is the Euclidean norm of a token's activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from neurexp.engine.notebook import capture
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Plan, Results
from neurexp.experiments.options.others import SITES
from neurexp.experiments.options.others import IdentitiesOptions as Options
from neurexp.models.additions import additions
from neurexp.models.direct import norm_after_blocks
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel
from neurexp.models.sites import sites_of
from neurexp.models.spread import device_of
from neurexp.report.report import Report, Table
from neurexp.text.tokens import Tokens

# What passes, relative to the norm: rounding of the number format, with room for sums over a block
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
HUGE = 20  # a dimension is huge at the first token if it exceeds the median magnitude there so many times

IDENTITIES = {
    "stream_in": "the stream before the block = transformers' hidden state before it",
    "stream_out": "the stream after the block = transformers' hidden state after it (not for the last block)",
    "attention": "the stream before the block + what attention adds = the stream between attention and MLP",
    "mlp": "the stream between attention and MLP + what the MLP adds = the stream after the block",
    "sum": "the stream before the block + what attention adds + what the MLP adds = the stream after it",
    "last_with_norm": "the last block's output, after the final norm = transformers' last hidden state",
    "prefix": "a sequence's first half, run alone = the same tokens in the whole sequence",
    "alone": "a sequence, run alone = the same sequence in a batch",
    "fast": "the stream after the block in neurexp's faster forward = in transformers' own",
}


class Identities(Experiment[Plan]):
    """The experiment `identities`. It captures a few sequences itself, so it plans no pass."""

    Options = Options
    distributed = False

    def prepare(self, inputs: Inputs) -> Plan:
        return Plan(inputs, (), self._chosen(inputs.text))

    def _chosen(self, text: Tokens) -> Tokens:
        """The sequences that are run: whole ones, cut to the same length."""
        length = min(self.options.length, text.valid.shape[1])
        whole = np.flatnonzero(text.valid[:, :length].all(axis=1))[: self.options.sequences]
        if len(whole) < 2 or length < 4:
            raise UserError(
                f"dataset.tokens: the text has {len(whole)} sequences of {length} tokens; give two of 4 tokens or more "
                "(a larger dataset.tokens, or a smaller dataset.sequence_length)"
            )
        return replace(text, input_ids=text.input_ids[whole, :length], valid=text.valid[whole, :length])

    def analyse(self, plan: Plan, results: Results) -> Report:
        model, ids = plan.inputs.model, torch.from_numpy(plan.tokens.input_ids).long()
        layers = plan.inputs.layers(self.options.layer)
        with torch.inference_mode():  # transformers leaves hooks of its own in some families
            given = model.network.base_model(ids.to(model.device), use_cache=False, output_hidden_states=True)
        hidden = [one.cpu() for one in given.hidden_states]
        before = _hooks(model.network)
        checked = _Checked.of(model, ids, layers, hidden)
        left = _hooks(model.network) - before
        tolerance = self.options.tolerance or TOLERANCE[model.network.dtype]
        return _report(checked, plan, left, tolerance)


@dataclass(frozen=True)
class _Checked:
    """The deviations of each identity `[layers]`, NaN where it says nothing; and the sizes of the stream's dimensions.

    `first` and `rest` `[layers, width]` are the largest magnitudes after the block at first tokens and at all others.
    """

    layers: tuple[int, ...]
    deviations: Mapping[str, np.ndarray]
    last_without_norm: float
    first: np.ndarray
    rest: np.ndarray
    why_no_sum: str

    @property
    def known(self) -> dict[str, np.ndarray]:
        """The deviations of the identities that say something in some layer."""
        return {name: row for name, row in self.deviations.items() if not np.isnan(row).all()}

    @classmethod
    def of(
        cls, model: LanguageModel, ids: torch.Tensor, layers: tuple[int, ...], hidden: Sequence[torch.Tensor]
    ) -> "_Checked":
        """Checks a model on `ids` `[sequences, length]`; `hidden` are transformers' own hidden states there."""
        network, last = model.network, model.layers - 1
        captured = capture(network, ids, [one for one in SITES if one in sites_of(network)], list(layers))

        def after_blocks(which: torch.Tensor) -> list[torch.Tensor]:
            return list(capture(network, which, "RESID_POST", list(layers)).values())

        pre, post = ([captured[f"{site}_{layer}"] for layer in layers] for site in ("RESID_PRE", "RESID_POST"))
        rows = {name: np.full(len(layers), np.nan) for name in IDENTITIES}
        half = ids.shape[1] // 2
        prefix, alone = after_blocks(ids[:, :half]), after_blocks(ids[:1])
        fast = []
        if model.fast:
            with fast_forward(network):
                fast = after_blocks(ids)
        norm, without = norm_after_blocks(network), np.nan
        for index, layer in enumerate(layers):
            rows["stream_in"][index] = deviation(pre[index], hidden[layer])
            rows["prefix"][index] = deviation(prefix[index], post[index][:, :half])
            rows["alone"][index] = deviation(alone[index], post[index][:1])
            if fast:
                rows["fast"][index] = deviation(fast[index], post[index])
            if layer < last:
                rows["stream_out"][index] = deviation(post[index], hidden[layer + 1])
            elif norm is not None:
                with torch.inference_mode():
                    normed = norm(post[index].to(device_of(network))).cpu()
                rows["last_with_norm"][index] = deviation(normed, hidden[-1])
                without = deviation(post[index], hidden[-1])
            added = additions(network, layer, {name: captured.get(f"{name}_{layer}") for name in ("ATTN_OUT", "PROJ")})
            mid, attention, mlp = captured.get(f"RESID_MID_{layer}"), added.attention, added.mlp
            if attention is not None and mid is not None:
                rows["attention"][index] = deviation(pre[index] + attention, mid)
            if mlp is not None and mid is not None:
                rows["mlp"][index] = deviation(mid + mlp, post[index])
            if attention is not None and mlp is not None:
                rows["sum"][index] = deviation(pre[index] + attention + mlp, post[index])
        sizes = [one.float().abs() for one in post]
        return cls(
            layers,
            rows,
            without,
            np.stack([one[:, 0].amax(0).numpy() for one in sizes]),
            np.stack([one[:, 1:].amax((0, 1)).numpy() for one in sizes]),
            additions(network, layers[0], {}).why_none,
        )


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest ‖a − b‖ / ‖b‖ over the tokens of `[sequences, length, width]`, in float64; 0 where both are zero.

    Infinite where a token of one of them is not finite: nothing adds up there.
    """
    a, b = a.double(), b.double()
    apart, size = (a - b).norm(dim=-1), b.norm(dim=-1)
    relative = torch.where(apart == 0, 0.0, apart / size)
    return float(relative.nan_to_num(torch.inf, torch.inf).max())


def _hooks(network: nn.Module) -> int:
    """How many hooks the modules of a network have."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def _report(checked: _Checked, plan: Plan, hooks_left: int, tolerance: float) -> Report:
    layers, width = np.array(checked.layers), checked.first.shape[1]
    worst = {name: float(np.nanmax(row)) for name, row in checked.known.items()}
    failed = {name: value for name, value in worst.items() if value > tolerance}
    passed = not failed and hooks_left == 0
    typical = np.median(checked.first, axis=1, keepdims=True)
    huge = checked.first > HUGE * np.maximum(typical, 1e-30)
    table: Table = {"layer": layers, **{f"deviation_{name}": row for name, row in checked.deviations.items()}}
    table |= {
        "huge_dimensions": huge.sum(1),
        "largest_first": checked.first.max(1),
        "largest_first_dimension": checked.first.argmax(1),
        "largest_rest": checked.rest.max(1),
        "median_first": typical[:, 0],
    }
    metrics = {"passed": float(passed), "hooks_left": float(hooks_left), "tolerance": tolerance}
    metrics |= {f"worst_{name}": value for name, value in worst.items() if np.isfinite(value)}
    if np.isfinite(checked.last_without_norm):
        metrics["last_without_norm"] = checked.last_without_norm
    return Report(
        findings=_findings(checked, plan, hooks_left, tolerance, worst, failed, huge),
        metrics=metrics,
        layers=table,
        neurons={
            "layer": np.repeat(layers, width),
            "neuron": np.tile(np.arange(width), len(layers)),
            "largest_first": checked.first.ravel(),
            "largest_rest": checked.rest.ravel(),
            "huge": huge.ravel(),
        },
        columns=_columns(tolerance),
        statistic="largest_first",
        figures={"deviations": lambda: _draw(checked, plan, tolerance, passed)},
    )


def _findings(
    checked: _Checked,
    plan: Plan,
    hooks_left: int,
    tolerance: float,
    worst: Mapping[str, float],
    failed: Mapping[str, float],
    huge: np.ndarray,
) -> list[str]:
    layers, (count, length) = checked.layers, plan.tokens.valid.shape
    over = f"over {count} sequences of {length} tokens and {len(layers)} layers"
    if failed or hooks_left:
        what = [
            f"{name} ({IDENTITIES[name]}) is off by {value:.1e} of the size in layer "
            f"{layers[int(np.nanargmax(checked.deviations[name]))]}"
            for name, value in failed.items()
        ]
        what += [f"{hooks_left} hooks are left in the model"] if hooks_left else []
        lines = [f"FAIL {over}: {'; '.join(what)}. The tolerance is {tolerance:.0e}."]
    else:
        most = max(worst, key=lambda name: worst[name])
        lines = [
            f"PASS {over}: {len(worst)} identities hold, the largest deviation is {worst[most]:.1e} ({most}), and no "
            f"hook is left. The tolerance is {tolerance:.0e}."
        ]
    silent = [name for name in IDENTITIES if name not in worst]
    if silent:
        why = f": {checked.why_no_sum}" if checked.why_no_sum else ""
        lines.append(f"Not defined for this model or these layers: {', '.join(silent)}{why}.")
    if np.isfinite(checked.last_without_norm):
        lines.append(
            f"transformers' last hidden state is the last block's output after the final norm: without that norm the "
            f"two differ by {checked.last_without_norm:.2f} of its size. A plot over layers must not mix the two."
        )
    dimensions = np.flatnonzero(huge.any(0))
    if len(dimensions):
        strongest = dimensions[np.argsort(-checked.first[:, dimensions].max(0), kind="stable")][:5]
        named = ", ".join(
            f"{dimension} (up to {checked.first[:, dimension].max():.0f}, {checked.rest[:, dimension].max():.0f} at "
            "other tokens)"
            for dimension in strongest
        )
        lines.append(
            f"{len(dimensions)} of {checked.first.shape[1]} dimensions of the residual stream are huge at the first "
            f"token of a sequence (more than {HUGE} times the median there) in some layer; the largest: {named}."
        )
    else:
        lines.append("No dimension of the residual stream is huge at the first token of a sequence.")
    return lines


def _columns(tolerance: float) -> dict[str, str]:
    named = {f"deviation_{name}": f"largest ‖a − b‖ / ‖b‖ over tokens; {text}" for name, text in IDENTITIES.items()}
    worst = {f"worst_{name}": f"largest deviation_{name} of all layers" for name in IDENTITIES}
    return {
        "layer": "block index",
        "neuron": "dimension of the residual stream",
        **named,
        **worst,
        "passed": "1 if no deviation exceeds the tolerance and no hook is left, else 0",
        "hooks_left": "hooks that the captures left in the model",
        "tolerance": f"the largest deviation that passes ({tolerance:.0e} here)",
        "last_without_norm": "deviation of the last block's output, before the final norm, from the last hidden state",
        "huge_dimensions": f"dimensions whose largest_first exceeds {HUGE} times median_first",
        "huge": f"largest_first exceeds {HUGE} times the layer's median_first",
        "largest_first": "largest magnitude after the block at first tokens of sequences, model's own units",
        "largest_first_dimension": "the dimension of largest_first",
        "largest_rest": "largest magnitude after the block at all other tokens, model's own units",
        "median_first": "median of largest_first over the dimensions, model's own units",
    }


def _draw(checked: _Checked, plan: Plan, tolerance: float, passed: bool):
    from neurexp.figures.checks import deviations_by_layer

    count, length = plan.tokens.valid.shape
    return deviations_by_layer(
        checked.layers,
        {name.replace("_", " "): row for name, row in checked.known.items()},
        tolerance,
        checked.first.max(1),
        checked.rest.max(1),
        "Every identity holds" if passed else "Some identities do not hold",
        f"{plan.inputs.label}; {count} sequences of {length} tokens",
    )
