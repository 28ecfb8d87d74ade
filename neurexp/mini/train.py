"""Trains the embedded model: `python -m neurexp.mini.train --corpus FOLDER`.

A GPT-Neo of about 4 M parameters and its byte-level BPE tokenizer, from a folder of books and the docstrings of the
installed packages (`corpus.py`). Every step is a function of the seed and the step number, and the state is saved
every few minutes, so that a run that was stopped goes on where it was. The result is the folder that
`from_pretrained` loads, with its token counts, its loss curve and its card (`card.py`).
"""

import argparse
import csv
import json
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

from neurexp.mini import corpus
from neurexp.mini.card import write_card
from neurexp.models.fast import fast_forward

EOS = "<|endoftext|>"
SEQUENCE_LENGTH = 512
BATCH_SIZE = 8  # sequences a step
VOCABULARY = 8192
WARM_UP, DECAY = 200, 0.35  # steps to the full rate; last share of the steps over which it falls to 0
MATRIX_RATE, OTHER_RATE = 3e-3, 3e-3  # Muon for the blocks' matrices, AdamW for embeddings, norms and biases
HELD_OUT_TOKENS = 120_000  # of each held-out text
REPORT_EVERY, EVALUATE_EVERY, SAVE_SECONDS = 50, 500, 240


def architecture() -> GPTNeoConfig:
    """The embedded model: 6 layers × 192, 768 neurons a layer, alternating global and local attention."""
    return GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_layers=6,
        num_heads=6,
        attention_types=[[["global", "local"], 3]],
        window_size=128,
        max_position_embeddings=SEQUENCE_LENGTH,
        bos_token_id=0,
        eos_token_id=0,
    )


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCABULARY` tokens, id 0 being the end of text, which is also the pad."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token=EOS,
        model_max_length=SEQUENCE_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """The documents as one stream of token ids, an end of text after each."""
    encodings = tokenizer.backend_tokenizer.encode_batch(documents, add_special_tokens=False)
    return np.concatenate([np.array([*encoding.ids, 0], dtype=np.uint16) for encoding in encodings])


class Batches:
    """Step number → batch `[BATCH_SIZE, SEQUENCE_LENGTH]`; an epoch visits every window once, from a new offset."""

    def __init__(self, stream: np.ndarray, seed: int):
        self.stream, self.seed = stream, seed
        self.windows = (len(stream) - SEQUENCE_LENGTH) // SEQUENCE_LENGTH
        self.steps_per_epoch = self.windows // BATCH_SIZE
        self._epoch, self._offset = -1, 0
        self._order = np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> torch.Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._epoch, self._order = epoch, random.permutation(self.windows)
            self._offset = int(random.integers(SEQUENCE_LENGTH))
        chosen = self._order[position * BATCH_SIZE : (position + 1) * BATCH_SIZE]
        starts = chosen[:, None] * SEQUENCE_LENGTH + self._offset
        return torch.from_numpy(self.stream[starts + np.arange(SEQUENCE_LENGTH)].astype(np.int64))


def token_losses(model: GPTNeoForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of every token but the first, `[sequences, length - 1]`."""
    hidden = model.transformer(batch, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1]).float()
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(batch), -1)


def held_out(model: GPTNeoForCausalLM, stream: np.ndarray, counts: np.ndarray) -> dict:
    """Loss on a held-out stream, whole and by position, beside two unigram baselines, in nats per token."""
    rows = min(len(stream), HELD_OUT_TOKENS) // SEQUENCE_LENGTH
    tokens = torch.from_numpy(stream[: rows * SEQUENCE_LENGTH].astype(np.int64)).view(rows, SEQUENCE_LENGTH)
    model.eval()
    with torch.inference_mode():
        losses = torch.cat([token_losses(model, batch) for batch in tokens.split(BATCH_SIZE)])
    model.train()
    scored = tokens[:, 1:].flatten().numpy()
    of_training = np.log((counts + 1) / (counts + 1).sum())
    own = np.bincount(scored, minlength=VOCABULARY) / len(scored)
    return {
        "tokens": len(scored),
        "loss": losses.mean().item(),
        "loss_by_position": [part.mean().item() for part in losses.split(128, dim=1)],
        "unigram_loss": float(-of_training[scored].mean()),
        "unigram_entropy": float(-(own[own > 0] * np.log(own[own > 0])).sum()),
    }


def learning_rate_share(step: int, steps: int) -> float:
    """Warm-up, plateau, linear decay: before the decay it does not depend on `steps`, so a plan may be cut short."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def train(stream: np.ndarray, evaluations: dict[str, np.ndarray], counts: np.ndarray, options: argparse.Namespace):
    """Returns the trained model, its curve (a row per report) and its held-out results; saves its state as it goes."""
    torch.manual_seed(options.seed)
    model = GPTNeoForCausalLM(architecture()).train()
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and ".h." in name]
    others = [weight for name, weight in model.named_parameters() if not (weight.ndim == 2 and ".h." in name)]
    optimizers = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, options.steps))
        for optimizer in optimizers
    ]
    step, curve, seconds = 0, [], 0.0
    checkpoint = options.state / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        step, curve, seconds = state["step"], state["curve"], state["seconds"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule in schedules:
            schedule.last_epoch = step
        print(f"resumed at step {step}", flush=True)

    losses = torch.compile(token_losses) if options.compile else token_losses
    batches = Batches(stream, options.seed)
    start = saved_at = time.monotonic()
    running = []
    with fast_forward(model):
        while step < options.steps:
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
                    group["lr"] = base * learning_rate_share(step, options.steps)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = losses(model, batches(step)).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            running.append(loss.item())
            step += 1
            if step % REPORT_EVERY == 0 or step == options.steps:
                row = {"step": step, "tokens": step * BATCH_SIZE * SEQUENCE_LENGTH, "loss": float(np.mean(running))}
                if step % EVALUATE_EVERY == 0:
                    row |= {name: held_out(model, text, counts)["loss"] for name, text in evaluations.items()}
                row["seconds"] = round(seconds + time.monotonic() - start)
                curve.append(row)
                running = []
                print(json.dumps(row), flush=True)
            if time.monotonic() - saved_at > SAVE_SECONDS or step == options.steps:
                saved_at = time.monotonic()
                state = {
                    "step": step,
                    "curve": curve,
                    "seconds": seconds + saved_at - start,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
    model.bfloat16().float()  # the weights as they will be read from the file
    return model, curve, {name: held_out(model, text, counts) for name, text in evaluations.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m neurexp.mini.train", description="Trains the embedded model.")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--held-out", nargs="*", default=[], help="names of files in it that are never trained on")
    parser.add_argument("--docstrings", type=float, default=1.0, help="characters of docstrings per character of books")
    parser.add_argument("--steps", type=int, default=6000, help=f"of {BATCH_SIZE} × {SEQUENCE_LENGTH} tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("outputs/mini"), help="where a stopped run resumes from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="the model's folder")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)

    held_out_texts = {"pydoc": [topics[name] for name in sorted(topics)]}
    books, held_out_texts["novels"] = corpus.read_books(options.corpus, options.held_out)
    prepared, facts_file = options.state / "stream.npy", options.state / "corpus.json"
    if not facts_file.exists():
        characters = sum(map(len, books))
        docstrings, filtered = corpus.read_docstrings(
            int(options.docstrings * characters), options.seed, held_out_texts["pydoc"] + held_out_texts["novels"]
        )
        facts = {
            "books": len(books),
            "book_characters": characters,
            "held_out": options.held_out,
            "docstring_characters": sum(map(len, docstrings)),
            "docstrings": filtered,
        }
        tokenizer = train_tokenizer(books + docstrings)
        tokenizer.save_pretrained(options.state / "tokenizer")
        np.save(prepared, encode(tokenizer, books + docstrings))
        facts_file.write_text(json.dumps(facts))
    facts = json.loads(facts_file.read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.state / "tokenizer")
    stream = np.load(prepared)
    counts = np.bincount(stream, minlength=VOCABULARY)
    print(f"{len(stream):,} training tokens; {facts}", flush=True)

    evaluations = {name: encode(tokenizer, texts) for name, texts in held_out_texts.items() if texts}
    model, curve, results = train(stream, evaluations, counts, options)

    model.bfloat16().save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    save_file({"counts": torch.from_numpy(counts)}, options.output / "token_counts.safetensors")
    with (options.output / "loss_curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "tokens", "loss", *evaluations, "seconds"])
        writer.writeheader()
        writer.writerows(curve)
    write_card(options.output, facts | {"training_tokens": len(stream)}, vars(options), curve, results)


if __name__ == "__main__":
    main()
