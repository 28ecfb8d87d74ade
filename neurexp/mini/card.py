"""Writes the embedded model's card, the README.md of its folder, from what its training measured."""

import math
from pathlib import Path
from typing import Any


def write_card(folder: Path, corpus: dict[str, Any], options: dict[str, Any], curve: list[dict], results: dict) -> None:
    """The card: data, recipe, parameters, loss curve, held-out loss beside the unigram baselines.

    Args:
        folder: of the model.
        corpus: what `train.main` counted of its text.
        options: the command's options.
        curve: a row per report.
        results: `train.held_out` of each held-out text.
    """
    filtered = corpus["docstrings"]
    held_out = "\n".join(_row(name, result) for name, result in results.items())
    positions = "\n".join(
        f"| {name} | " + " | ".join(f"{loss:.2f}" for loss in result["loss_by_position"]) + " |"
        for name, result in results.items()
    )
    evaluated = [row for row in curve if any(name in row for name in results)]
    steps = "\n".join(
        f"| {row['step']:,} | {row['tokens']:,} | {row['loss']:.2f} | "
        + " | ".join(f"{row[name]:.2f}" for name in results)
        + " |"
        for row in evaluated
    )
    books = ", ".join(corpus["held_out"]) or "none"
    compiled = " --compile" if options["compile"] else ""
    text = f"""# mini: the embedded model of neurexp

A GPT-Neo-architecture causal language model of English, small enough to ship: 6 blocks of width 192 with 768 MLP
neurons each, 6 heads, global and local attention (window 128) in turn, 512 positions, a byte-level BPE of 8192 tokens,
4.3 M parameters, stored in bfloat16. It is there so that every experiment runs offline on a network that has learnt
something. It is no assistant, and what it says is not true.

## Data
- **Books**: {corpus["books"]} public-domain books, {corpus["book_characters"]:,} characters.
  Held out, never trained on: {books}.
- **Docstrings** of the Python standard library and of the installed packages: {filtered["kept"]:,} docstrings,
  {corpus["docstring_characters"]:,} characters, chosen from {filtered["seen"]:,} (left out:
  {filtered["short_or_not_prose"]:,} short or not prose, {filtered["double"]:,} doubles, and
  {filtered["shared_with_held_out"]:,} that share a run of 13 words with a held-out text).
- Never trained on: `pydoc_data.topics`, the text of `dataset=pydoc`.
- Together {corpus["training_tokens"]:,} tokens. How often each token occurs in them is in
  `token_counts.safetensors` (`counts`, int64).

## Recipe
    python -m neurexp.mini.train --corpus FOLDER --steps {options["steps"]} --seed {options["seed"]}{compiled} \\
        --held-out {" ".join(corpus["held_out"])}

{options["steps"]:,} steps of 8 sequences of 512 tokens ({options["steps"] * 4096:,} tokens in all) under bfloat16
autocast. Muon (rate 3e-3, weight decay 0.1) for the blocks' matrices, AdamW (3e-3) for the rest; 200 steps of warm-up,
a plateau, linear decay over the last 35 %. {curve[-1]["seconds"] / 60:.0f} minutes on two CPU cores that did other
work beside it.

## Held-out loss (nats per token; the weights as stored)
| text | tokens | mini | unigram, counts of the training text | unigram entropy of the text itself |
| --- | --- | --- | --- | --- |
{held_out}

By position in the sequence:

| text | 1–128 | 129–256 | 257–384 | 385–511 |
| --- | --- | --- | --- | --- |
{positions}

## Loss curve
The whole curve is in `loss_curve.csv`; training loss is the mean over the last 50 steps.

| step | tokens | training | {" | ".join(results)} |
| --- | --- | --- |{" --- |" * len(results)}
{steps}
"""
    (folder / "README.md").write_text(text, "utf-8")


def _row(name: str, result: dict) -> str:
    loss = f"**{result['loss']:.2f}** (perplexity {math.exp(result['loss']):.0f})"
    return (
        f"| {name} | {result['tokens']:,} | {loss} | {result['unigram_loss']:.2f} | {result['unigram_entropy']:.2f} |"
    )
