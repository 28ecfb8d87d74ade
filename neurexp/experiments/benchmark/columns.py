"""The data dictionary of `benchmark`: what each column of its tables and each metric means."""

CASES = {
    "bare": "Hugging Face's own forward without the language-model head, as a user calls it, at its best batch size",
    "capture": "our hooks and our forward, with no statistic",
    "pass": "the complete token_length: capture, statistics, nulls, intervals and analysis; no figures, no files",
    "recipe": "the keep-everything recipe: hooks that keep every layer, the full forward with its head, then mean, "
    "deviation and histogram by group of token length, and nothing else",
    "transformer_lens": "TransformerLens: run_with_cache with a filter of names, then the statistics of the recipe",
    "nnsight": "nnsight: trace, save every layer, stop, then the statistics of the recipe",
    "pass_bf16": "the same as pass with the model in bfloat16",
}

_CASE = "; ".join(f"{name}: {meaning}" for name, meaning in CASES.items())

COLUMNS = {
    "tokens": "tokens that every case runs, special ones included",
    "rounds": "rounds that were measured; in each of them every case runs once, in turn",
    **{f"seconds_{name}": f"median seconds over the rounds; {meaning}" for name, meaning in CASES.items()},
    **{
        f"ratio_{name}": f"median over the rounds of seconds_{name} / seconds of bare in the same round"
        for name in CASES
        if name != "bare"
    },
    **{f"batch_size_{name}": f"sequences in one forward of {name}" for name in CASES},
    "other_load": "cores that other programs kept busy during the rounds, on average (Linux only); best near 0",
    "memory_mb": "memory_mb_pass",
    **{
        f"memory_mb_{name}": f"peak memory of {name} above the loaded model, 10⁶ bytes: resident memory of the process "
        "(Linux), or what PyTorch allocated (CUDA)"
        for name in CASES
    },
    "statistics_share": "share of the pass that is not the capture: median over rounds of (pass − capture) / pass",
    "analysis_share": "share of the pass that is spent after its last token (nulls, intervals, tables): part of "
    "statistics_share",
    "tokens_per_second": "tokens / median seconds of the pass",
    "tokens_per_second_bare": "tokens / median seconds of the bare forward",
    "hours_per_billion_tokens": "hours that 1,000,000,000 tokens take at the pace of the pass (the analysis, which "
    "does not grow with the text, included)",
    "hours_per_billion_tokens_bare": "the same of the bare forward",
    "floor_gflops": "10⁹ floating-point operations a second in products of the model's shapes, with no model around "
    "them, each shape weighted by its share of the arithmetic: the best of all tries",
    "pass_gflops": "10⁹ floating-point operations of the pass's arithmetic / its median seconds",
    "bare_gflops": "the same of the bare forward",
    "pass_floor_share": "pass_gflops / floor_gflops: 1 would be products and nothing else",
    "bare_floor_share": "bare_gflops / floor_gflops",
    "ratio_floor": "seconds that the pass's arithmetic takes at floor_gflops / median seconds of the bare forward",
    "pass_gflop_per_token": "10⁹ floating-point operations for a token in the pass: 2 · inputs · outputs for each "
    "linear layer up to the last site, and 4 · width · keys for each attention, keys being those that a token may see, "
    "on average",
    "bare_gflop_per_token": "the same of the bare forward: all linear layers and attentions of the blocks",
    "difference_transformer_lens": "largest over layers of ‖theirs − ours‖ / ‖ours‖ of the activations of one sequence",
    "difference_nnsight": "largest over layers of ‖theirs − ours‖ / ‖ours‖ of the activations of one sequence",
    "bf16_error": "largest over layers of ‖bfloat16 − float32‖ / ‖float32‖ of the activations of the first sequences",
    "bf16_r_difference_largest": "largest |r_length in bfloat16 − r_length| over all neurons",
    "bf16_r_difference_median": "median |r_length in bfloat16 − r_length| over all neurons",
    "benchmark.case": _CASE,
    "benchmark.batch_size": "sequences in one forward",
    "benchmark.seconds": "median over the rounds",
    "benchmark.seconds_min": "of the quickest round",
    "benchmark.seconds_max": "of the slowest round",
    "benchmark.ratio": "median over the rounds of the case's seconds / those of bare in the same round",
    "benchmark.ratio_min": "smallest of these",
    "benchmark.ratio_max": "largest of these",
    "benchmark.tokens_per_second": "tokens / median seconds",
    "benchmark.memory_mb": "peak memory above the loaded model, 10⁶ bytes; missing where it cannot be measured",
    "rounds.round": "from 0, in the order in which they ran",
    "rounds.case": "as in benchmark.case; within a round in this order",
    "rounds.seconds": "for all of the tokens, once",
    "rounds.analysis_seconds": "of these after the last token; missing for cases that have no analysis",
    "batch_sizes.case": "as in benchmark.case",
    "batch_sizes.batch_size": "sequences in one forward",
    "batch_sizes.seconds": "for all of the tokens, once; the best one is taken for the rounds",
    "profile.operator": "PyTorch's name of the operator; “other operators”: those below together; “outside "
    "operators”: Python, NumPy, waiting and the profiler itself",
    "profile.seconds": "spent in the operator itself, not in those that it calls, in one profiled pass; added up over "
    "the batches that run side by side",
    "profile.share": "of all seconds in this table",
    "profile.calls": "how often it ran; 0: not counted",
}
