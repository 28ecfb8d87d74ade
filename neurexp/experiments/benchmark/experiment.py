"""Benchmark: how long the whole of `token_length` takes on the user's own machine, next to the plain forward pass.

All cases run in one process, in turn, and times are reported as ratios within a round. This module decides what is
compared and what is reported. `cases` has the cases, `peers` the other libraries, `machine` the measurements, `columns`
the data dictionary.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from neurexp.engine import processes
from neurexp.engine.lanes import lanes_on
from neurexp.engine.notebook import capture
from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments import token_length
from neurexp.experiments.base import Experiment, Inputs, Plan, Results
from neurexp.experiments.benchmark import cases, command_costs, context_costs, edit_costs, machine
from neurexp.experiments.benchmark.ablations import Ablations
from neurexp.experiments.benchmark.cases import Case
from neurexp.experiments.benchmark.columns import COLUMNS
from neurexp.experiments.benchmark.peers import find_peers
from neurexp.experiments.options.others import BenchmarkOptions as Options
from neurexp.models.fast import difference_from_eager, fast_forward
from neurexp.models.load import AGREEMENT, LanguageModel
from neurexp.models.sites import family_of, find_sites, use_family
from neurexp.models.spread import device_of
from neurexp.report.report import Report, Table

log = logging.getLogger(__name__)

BILLION = 1_000_000_000
OPERATORS = 12  # that the profile names
COMPARED = 4  # sequences on which bfloat16's activations are held against float32's
BUSY = 0.2  # cores: other programs that keep more busy are mentioned
ENOUGH = 0.8  # share of the free memory that a case which keeps everything may take


@dataclass
class Measured:
    """The measurements of all rounds."""

    cases: list[Case]
    seconds: dict[str, np.ndarray]  # case → [rounds]
    analysis: dict[str, np.ndarray]  # case → [rounds]; only cases that have an analysis
    memory: dict[str, float]  # case → MB; only where it can be measured
    batch_sizes: dict[str, dict[int, float]]  # case → batch size → seconds


class Benchmark(Experiment[Plan]):
    """The experiment `benchmark`. It plans the pass of `token_length`, which warms up the machine, then measures."""

    Options = Options

    def __init__(self, options: Any):
        super().__init__(options)
        if processes.count() > 1:
            raise UserError("experiment=benchmark: it measures one process; leave torchrun out")
        self._measured = token_length.TokenLength(options)

    def prepare(self, inputs: Inputs) -> Plan:
        plan = self._measured.prepare(inputs)
        passes = tuple(replace(planned, cacheable=False) for planned in plan.passes)  # measured, so never reused
        return Plan(inputs, passes, plan.tokens, plan.skipped, {"processor": _processor(inputs.model.device)})

    def analyse(self, plan: Plan, results: Results) -> Report:
        return _Benchmark(self.options, self._measured, plan.inputs, plan.passes[0]).report()


def _processor(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.cpu.get_capabilities().get("cpu_name")


class _Benchmark:
    """One run of the benchmark: measurements, tables, metrics and findings."""

    def __init__(self, options: Options, experiment: token_length.TokenLength, inputs: Inputs, planned: Pass):
        self.options, self._experiment, self._inputs = options, experiment, inputs
        self._model, self.tokens, self.layers = inputs.model, planned.tokens, list(planned.layers)
        self._peers: dict[str, str] = {}  # case → name and version
        self._more: dict[str, float] = {}  # metrics other than times

    def report(self) -> Report:
        """Measures all cases and compares them."""
        measured, floor, whole = self._measure()
        profile = self._profile(whole)
        table = self._table(measured)
        metrics = self._metrics(measured, table, floor)
        findings = self._findings(measured, metrics, profile)
        tables = {
            "benchmark": table,
            "rounds": _rounds_table(measured),
            "batch_sizes": _batch_sizes_table(measured),
            "profile": profile,
        }
        edits, contexts, commands = self._edits(), self._contexts(), self._commands()
        for name, costs in (("ablations", edits), ("context_costs", contexts), ("command_costs", commands)):
            if costs is not None:
                tables[name] = costs.table()
                of_them = costs.metrics(tables[name])
                metrics |= of_them
                findings += costs.findings(of_them)
        return Report(
            findings=findings,
            metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
            layers={},
            neurons={},
            columns=COLUMNS
            | edit_costs.columns(edits.layers if edits else [])
            | context_costs.COLUMNS
            | command_costs.COLUMNS,
            statistic="",
            tables=tables,
            figures={"benchmark": lambda: self._draw(measured, table, metrics)},
            step_column=None,
            provenance={"peers": sorted({*self._peers.values(), *(edits.peers.values() if edits else ())})},
        )

    # -- measuring -------------------------------------------------------------------------------------------------

    def _measure(self) -> tuple[Measured, machine.Floor, cases.WholePass]:
        model, tokens = self._model, self.tokens
        batch_size = min(self._inputs.batch_size, len(tokens.valid))
        device, dtype = model.device, model.network.dtype
        sites = find_sites(model.network, self.options.site, self.layers)
        self._arithmetic = {
            "bare": machine.count_arithmetic(model.network, tokens.input_ids.shape[1]),
            "pass": machine.count_arithmetic(model.network, tokens.input_ids.shape[1], sites),
        }
        rows = batch_size * tokens.input_ids.shape[1]
        floor = machine.Floor(self._arithmetic["pass"], rows, device, dtype)
        whole = cases.WholePass(self._experiment, self._inputs)
        measured = Measured([], {}, {}, {}, {})
        seconds_of = self._seconds_of

        def add(name: str, label: str, work: cases.Work, sizes: Sequence[int]) -> Case:
            """Adds a case at the best of `sizes`, warmed up."""
            if len(sizes) > 1:
                log.info("%s: batch sizes %s", label, ", ".join(map(str, sizes)))
                measured.batch_sizes[name] = cases.best_batch_size(work, sizes, seconds_of)
            case = Case(name, label, work, next(iter(measured.batch_sizes.get(name, sizes))))
            log.info("%s: warming up", label)
            memory = machine.peak_memory(case, device)
            if memory is not None:
                measured.memory[name] = memory
            measured.cases.append(case)
            return case

        sizes = sorted({min(size, len(tokens.valid)) for size in self.options.batch_sizes})
        best = add("bare", "plain forward pass", cases.bare(model, tokens), sizes).batch_size
        under_way = min(batch_size * lanes_on(device), len(tokens.valid))
        either = sorted({batch_size, under_way, best})
        add("capture", "capture alone", cases.capture(model, tokens, self.options.site, self.layers), [batch_size])
        add("pass", "token_length, whole", whole, [batch_size])
        ours = self._activations(model, 1)
        recipe = cases.Recipe(model, tokens, sites, [activations.shape[-1] for activations in ours])
        free = machine.free_memory(device)
        if free is None or recipe.bytes_needed < ENOUGH * free:
            add("recipe", "keep-everything recipe (with logits)", recipe, either)
            for name, (label, fetch) in self._find_peers(sites, ours).items():
                add(name, label, recipe.with_fetch(fetch), either)
        else:
            log.warning(
                "The keep-everything recipe and the peers are left out: they need %.1f GB here, and %.1f GB are free; "
                "dataset.tokens=8192 would leave room for them",
                recipe.bytes_needed / 1e9,
                free / 1e9,
            )
        if self._wants_bfloat16():
            network = copy.deepcopy(model.network).to(torch.bfloat16)  # type: ignore[arg-type]
            use_family(network, family_of(model.network))
            agrees = difference_from_eager(network)
            half = replace(
                model, network=network, fast=model.fast and agrees is not None and agrees <= AGREEMENT[torch.bfloat16]
            )
            add(
                "pass_bf16",
                "token_length in bfloat16",
                cases.WholePass(self._experiment, replace(self._inputs, model=half)),
                [batch_size],
            )
            self._compare_bfloat16(half, whole, measured.cases[-1])

        def each_round(index: int) -> None:
            log.info(
                "Round %d of %d: %s", index + 1, self.options.rounds, ", ".join(turn.name for turn in measured.cases)
            )
            floor.measure()

        analysis: dict[str, list[float]] = {}

        def seconds_of_turn(case: Case) -> float:
            seconds = seconds_of(case)
            if isinstance(case.work, cases.WholePass):
                analysis.setdefault(case.name, []).append(case.work.analysis)
            return seconds

        others = machine.OtherLoad()
        measured.seconds = cases.take_turns(measured.cases, self.options.rounds, seconds_of_turn, each_round)
        load = others.cores()
        if load is not None:
            self._more["other_load"] = load
        measured.analysis = {name: np.array(values) for name, values in analysis.items()}
        return measured, floor, whole

    def _seconds_of(self, work: Callable[[], object]) -> float:
        return machine.timed(work, self._model.device)

    def _activations(self, model: LanguageModel, sequences: int) -> list[torch.Tensor]:
        """Our activations of the first sequences, `[sequences, length, neurons]` for each site."""
        with fast_forward(model.network) if model.fast else nullcontext():
            found = capture(model.network, self.tokens.input_ids[:sequences], self.options.site, self.layers)
        return list(found.values())

    def _find_peers(self, sites, ours: list[torch.Tensor]) -> dict[str, tuple[str, Callable]]:
        if not self.options.peers:
            return {}
        network = self._model.network
        ids = torch.from_numpy(self.tokens.input_ids[:1].astype(np.int64)).to(device_of(network))
        found = find_peers(network, sites, ids, ours, AGREEMENT[network.dtype])
        self._peers = {case: label for case, (label, _, _) in found.items()}
        self._more |= {f"difference_{case}": difference for case, (_, _, difference) in found.items()}
        return {case: (label, fetch) for case, (label, fetch, _) in found.items()}

    def _wants_bfloat16(self) -> bool:
        if self._model.network.dtype is not torch.float32:
            return False  # there is no float32 result to compare it with
        return bool(
            machine.multiplies_bfloat16(self._model.device) if self.options.bf16 == "auto" else self.options.bf16
        )

    def _compare_bfloat16(self, half: LanguageModel, whole: cases.WholePass, case: Case) -> None:
        assert isinstance(case.work, cases.WholePass)
        assert whole.report is not None
        assert case.work.report is not None
        pairs = zip(self._activations(half, COMPARED), self._activations(self._model, COMPARED), strict=True)
        error = max(float((rough.double() - exact.double()).norm() / exact.double().norm()) for rough, exact in pairs)
        r = np.abs(case.work.report.neurons["r_length"] - whole.report.neurons["r_length"])
        r = r[np.isfinite(r)]
        self._more["bf16_error"] = error
        if len(r):
            self._more["bf16_r_difference_largest"] = float(r.max())
            self._more["bf16_r_difference_median"] = float(np.median(r))

    def _profile(self, whole: cases.WholePass) -> Table:
        """The seconds of each of PyTorch's operators in one more pass, over all lanes, the longest first."""
        log.info("Profile: one more pass")
        spent, took = machine.seconds_by_operator(lambda: whole(self._inputs.batch_size), self._model.device)
        return _longest(spent, took * lanes_on(self._model.device))

    def _edits(self) -> edit_costs.EditCosts | None:
        """What ablations cost, on the sequences of one batch; None if not wanted, or if the model has no neurons."""
        if not self.options.edits:
            return None
        try:
            ablations = Ablations(self._model, self.tokens, self._inputs.batch_size, self.options.edits)
        except LookupError as error:
            log.warning("The ablations are left out: %s", error)
            return None
        return edit_costs.measure(ablations, self.options.rounds, self.options.peers, self._seconds_of)

    def _contexts(self) -> context_costs.ContextCosts | None:
        """What top contexts cost in the same text; None if not wanted."""
        if not self.options.contexts:
            return None
        return context_costs.measure(
            self._model,
            self.tokens,
            self.options.site,
            self.layers,
            min(self._inputs.batch_size, len(self.tokens.valid)),
            self.options.rounds,
            self._seconds_of,
        )

    def _commands(self) -> command_costs.CommandCosts | None:
        """What the whole command costs beside its pass; None if not wanted."""
        if not self.options.commands:
            return None
        try:
            return command_costs.measure(self._model.device.type, self.options.commands)
        except UserError as error:  # what was measured before must not be lost
            log.warning("The command is left out: %s", error)
            return None

    # -- what came out ---------------------------------------------------------------------------------------------

    def _table(self, measured: Measured) -> Table:
        relative = cases.ratios(measured.seconds, "bare")
        table: Table = {"case": np.array([case.name for case in measured.cases])}
        table["batch_size"] = np.array([case.batch_size for case in measured.cases])
        for name, values in (("seconds", measured.seconds), ("ratio", relative)):
            rows = np.stack([values[case.name] for case in measured.cases])
            table[name] = np.median(rows, 1)
            table[f"{name}_min"], table[f"{name}_max"] = rows.min(1), rows.max(1)
        table["tokens_per_second"] = self.tokens.count / table["seconds"]
        table["memory_mb"] = np.array([measured.memory.get(case.name, np.nan) for case in measured.cases])
        return table

    def _metrics(self, measured: Measured, table: Table, floor: machine.Floor) -> dict[str, float]:
        metrics: dict[str, float] = {"tokens": self.tokens.count, "rounds": self.options.rounds}
        for row, case in enumerate(measured.cases):
            metrics[f"seconds_{case.name}"] = float(table["seconds"][row])
            if case.name != "bare":
                metrics[f"ratio_{case.name}"] = float(table["ratio"][row])
            metrics[f"batch_size_{case.name}"] = case.batch_size
            metrics[f"memory_mb_{case.name}"] = float(table["memory_mb"][row])
        metrics["memory_mb"] = metrics["memory_mb_pass"]
        whole, captured = measured.seconds["pass"], measured.seconds["capture"]
        metrics["statistics_share"] = float(np.median((whole - captured) / whole))
        metrics["analysis_share"] = float(np.median(measured.analysis["pass"] / whole))
        metrics["floor_gflops"] = floor.rate / 1e9
        run = self.tokens.input_ids.size  # a padded token is computed like any other
        for name, suffix in (("pass", ""), ("bare", "_bare")):
            seconds, operations = metrics[f"seconds_{name}"], self._arithmetic[name].total
            pace = self.tokens.count / seconds
            metrics[f"tokens_per_second{suffix}"] = pace
            metrics[f"hours_per_billion_tokens{suffix}"] = BILLION / pace / 3600
            metrics[f"{name}_gflop_per_token"] = operations / 1e9
            metrics[f"{name}_gflops"] = operations * run / seconds / 1e9
            metrics[f"{name}_floor_share"] = metrics[f"{name}_gflops"] / metrics["floor_gflops"]
        metrics["ratio_floor"] = metrics["pass_floor_share"] * metrics["seconds_pass"] / metrics["seconds_bare"]
        return metrics | self._more

    def _findings(self, measured: Measured, metrics: dict[str, float], profile: Table) -> list[str]:
        relative = cases.ratios(measured.seconds, "bare")

        def spread(name: str) -> str:
            low, high = relative[name].min(), relative[name].max()
            return f"{metrics[f'ratio_{name}']:.2f} ({low:.2f} to {high:.2f})"

        lines = [
            f"The whole of token_length, nulls and intervals included, takes {spread('pass')} times the plain forward "
            f"pass: {metrics['seconds_pass']:.3g} s against {metrics['seconds_bare']:.3g} s for {self.tokens.count:,} "
            f"tokens, medians of {self.options.rounds} rounds in turn (and the smallest and largest ratio of a round); "
            f"{lanes_on(self._model.device)} × {metrics['batch_size_pass']} sequences at once, the plain forward at "
            f"its best, {metrics['batch_size_bare']}.",
            f"Capture alone takes {spread('capture')}; the statistics are {metrics['statistics_share']:.0%} of the "
            f"pass; {metrics['analysis_share']:.0%} of it comes after the last token.",
        ]
        if "memory_mb_pass" in metrics and np.isfinite(metrics["memory_mb_pass"]):
            lines.append(
                f"The pass takes {metrics['memory_mb_pass']:,.0f} MB above the loaded model, the plain forward pass "
                f"{metrics['memory_mb_bare']:,.0f} MB."
            )
        lines += [
            f"The pass computes at {metrics['pass_gflops']:,.0f} GFLOP/s, {metrics['pass_floor_share']:.0%} of the "
            f"{metrics['floor_gflops']:,.0f} that this machine reaches in bare matrix products of these shapes; the "
            f"plain forward pass at {metrics['bare_floor_share']:.0%}. Products alone would take "
            f"{metrics['ratio_floor']:.2f} of the plain forward pass.",
            f"1,000,000,000 tokens would take {metrics['hours_per_billion_tokens']:,.1f} hours "
            f"({metrics['hours_per_billion_tokens'] * 3600:,.0f} s, {metrics['tokens_per_second']:,.0f} tokens/s) at "
            f"the pace of the pass, {metrics['hours_per_billion_tokens_bare']:,.1f} hours at that of the plain forward "
            "pass.",
        ]
        others = [
            f"{case.label} {spread(case.name)}"
            + (f" and {measured.memory[case.name]:,.0f} MB" if case.name in measured.memory else "")
            for case in measured.cases
            if case.name in ("recipe", *self._peers)
        ]
        if others:
            lines.append(f"Next to the plain forward pass, with basic statistics only: {'; '.join(others)}.")
        if "ratio_pass_bf16" in metrics:
            lines.append(
                f"In bfloat16 the pass takes {spread('pass_bf16')}; activations differ from float32 by up to "
                f"{metrics['bf16_error']:.1%} of a layer's norm"
                + (
                    f", r by {metrics['bf16_r_difference_median']:.4f} in the median and "
                    f"{metrics['bf16_r_difference_largest']:.4f} at most."
                    if "bf16_r_difference_largest" in metrics
                    else "."
                )
            )
        if metrics.get("other_load", 0) > BUSY:
            lines.append(
                f"Other programs kept {metrics['other_load']:.1f} cores busy: measure again when they are idle."
            )
        named = [f"{name} {share:.0%}" for name, share in zip(profile["operator"][:4], profile["share"], strict=False)]
        lines.append(
            f"Where the pass spends its time, by PyTorch's own names: {', '.join(named)}; {profile['share'][-1]:.0%} "
            "outside its operators."
        )
        return lines

    def _draw(self, measured: Measured, table: Table, metrics: dict[str, float]):
        from neurexp.figures.bars import ratio_bars

        def note(row: int) -> str:
            memory = table["memory_mb"][row]
            said = f"{table['ratio'][row]:.2f}   {table['seconds'][row]:.3g} s"
            return said + (f", {memory:,.0f} MB" if np.isfinite(memory) else "")

        kinds = {"bare": "reference"} | dict.fromkeys(("capture", "pass", "pass_bf16"), "ours")
        bars = [
            (
                f"{case.label}\n(batch {case.batch_size})",
                kinds.get(case.name, "others"),
                table["ratio"][row],
                table["ratio_min"][row] if case.name != "bare" else np.nan,
                table["ratio_max"][row] if case.name != "bare" else np.nan,
                note(row),
            )
            for row, case in enumerate(measured.cases)
        ]
        at_floor, rate = metrics["ratio_floor"], metrics["floor_gflops"]
        bars.append(
            (
                "the pass's matrix\nproducts alone",
                "limit",
                at_floor,
                np.nan,
                np.nan,
                f"{at_floor:.2f}, at {rate:,.0f} GFLOP/s",
            )
        )
        bars.sort(key=lambda bar: ("reference", "ours", "limit", "others").index(bar[1]))  # else in their order
        names, of_kind, ratios, low, high, notes = zip(*bars, strict=True)
        return ratio_bars(
            names,
            of_kind,
            np.array(ratios),
            np.array(low),
            np.array(high),
            notes,
            "plain forward pass = 1",
            f"The whole measurement takes {metrics['ratio_pass']:.2f} times the plain forward pass, statistics and all",
            f"{self._inputs.label}, {self.tokens.count:,} tokens, {self._model.device}, "
            f"{str(self._model.network.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads; medians and "
            f"range of the ratios of {self.options.rounds} rounds; memory above the loaded model",
            "time relative to Hugging Face's own forward pass in the same round",
        )


def _longest(spent: list[tuple[str, float, int]], took: float) -> Table:
    """The operators that took longest, of (name, seconds, calls), then what the others took together, and the rest."""
    spent = sorted((event for event in spent if event[1] > 0), key=lambda event: -event[1])
    rows = spent[:OPERATORS]
    others = spent[OPERATORS:]
    if others:
        rows.append(("other operators", sum(event[1] for event in others), sum(event[2] for event in others)))
    rows.append(("outside operators", max(0.0, took - sum(event[1] for event in spent)), 0))
    names, seconds, calls = zip(*rows, strict=True)
    share = np.array(seconds) / max(sum(seconds), 1e-12)
    return {"operator": np.array(names), "seconds": np.array(seconds), "share": share, "calls": np.array(calls)}


def _rounds_table(measured: Measured) -> Table:
    rounds = len(measured.seconds["bare"])
    names = [case.name for case in measured.cases]
    none = np.full(rounds, np.nan)
    return {
        "round": np.repeat(np.arange(rounds), len(names)),
        "case": np.array(names * rounds),
        "seconds": np.stack([measured.seconds[name] for name in names], 1).ravel(),
        "analysis_seconds": np.stack([measured.analysis.get(name, none) for name in names], 1).ravel(),
    }


def _batch_sizes_table(measured: Measured) -> Table:
    rows = [
        (name, size, seconds)
        for name, by_size in measured.batch_sizes.items()
        for size, seconds in sorted(by_size.items())
    ]
    if not rows:
        return {}
    names, sizes, seconds = zip(*rows, strict=True)
    return {"case": np.array(names), "batch_size": np.array(sizes), "seconds": np.array(seconds)}
