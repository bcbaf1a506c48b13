"""Train the embedded default model, from word lists to a checkpoint folder, on two CPU cores.

    python tools/train_demo.py                       # the model in edgelm/demo/, about half an hour
    python tools/train_demo.py --data-only --out /tmp/data

The text is made on the fly by `demo_data`; nothing is downloaded. With the same seed, thread count and torch version
the same weights come out.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from demo_data import checkpoint, quantized
from demo_data.conversations import heldout, training
from demo_data.muon import Muon
from demo_data.schema import SCHEMA
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEMO = Path(__file__).resolve().parents[1] / "edgelm" / "demo"
ROW, ROWS = 256, 12  # a batch: 16 rows of 256 tokens, each holding several whole conversations
POOL = 1500  # conversations packed together
GROWTH = 500  # batches over which conversations grow to their full length
QAT = 0.15  # share of the last steps in which weights are rounded to int4 in the forward pass


def config(vocab_size: int) -> LlamaConfig:
    """The architecture: 5 layers of width 256, every dimension divisible by 128."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=checkpoint.BOS,
        eos_token_id=checkpoint.END,
        pad_token_id=checkpoint.PAD,
        attn_implementation="sdpa",
    )


def pack(pairs: list[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
    """Put conversations into as few rows of ROW tokens as first-fit, longest first, finds."""
    rows: list[list[tuple[list[int], list[int]]]] = []
    room: list[int] = []
    for pair in sorted((p for p in pairs if len(p[0]) <= ROW), key=lambda p: -len(p[0])):
        size = len(pair[0])
        i = next((i for i, left in enumerate(room) if left >= size), len(rows))
        if i == len(rows):
            rows.append([])
            room.append(ROW)
        rows[i].append(pair)
        room[i] -= size
    return rows


def stacked(rows: list[list[tuple[list[int], list[int]]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as tensors: ids and targets [R, ROW], and the mask [R, 1, ROW, ROW] that keeps conversations apart."""
    ids = torch.full((len(rows), ROW), checkpoint.PAD)
    targets = torch.full((len(rows), ROW), -100)
    owner = torch.full((len(rows), ROW), -1)
    for r, row in enumerate(rows):
        at = 0
        for n, (tokens, wanted) in enumerate(row):
            ids[r, at : at + len(tokens)] = torch.tensor(tokens)
            targets[r, at : at + len(tokens)] = torch.tensor(wanted)
            owner[r, at : at + len(tokens)] = n
            at += len(tokens)
    causal = torch.ones(ROW, ROW, dtype=torch.bool).tril()
    return ids, targets, ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """Yield (ids, targets, mask) batches for ever; targets are -100 outside the assistant's turns."""
    rng = random.Random(f"train-{seed}")
    made = 0
    while True:
        hard = min(1.0, made / GROWTH)
        rows = pack([checkpoint.encode(tokenizer, training(rng, hard).full()) for _ in range(POOL)])
        rng.shuffle(rows)
        for i in range(0, len(rows) - ROWS + 1, ROWS):
            made += 1
            yield stacked(rows[i : i + ROWS])


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the answers. Rotary positions are relative, so a row may simply count through."""
    hidden = model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    scored = wanted != -100
    logits = model.lm_head(hidden[scored])
    return torch.nn.functional.cross_entropy(logits, wanted[scored])


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 60 steps, then a straight line down to 1 %."""
    return min((step + 1) / 60, 0.01 + 0.99 * (1 - step / steps))


def optimizers_of(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in named if p.dim() != 2 or "embed" in n]
    found = [Muon(matrices, lr, weight_decay=0.1), torch.optim.AdamW(rest, lr=lr * 0.15, betas=(0.9, 0.98))]
    for group in (g for o in found for g in o.param_groups):
        group["peak"] = group["lr"]
    return found


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    seed: int,
    lr: float,
    snapshot: Callable[[int], None],
) -> float:
    """Train in place, reporting every 50 steps; returns the seconds taken."""
    optimizers, stream = optimizers_of(model, lr), batches(tokenizer, seed)
    started, seen, total = time.monotonic(), 0, 0.0
    model.train()
    for step in range(steps):
        if step == int(steps * (1 - QAT)):
            quantized.attach(model)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = group["peak"] * schedule(step, steps)
        ids, targets, mask = next(stream)
        loss = loss_of(model, ids, targets, mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen, total = seen + ids.numel(), total + loss.item()
        if (step + 1) % 50 == 0:
            took = time.monotonic() - started
            left = took / (step + 1) * (steps - step - 1)
            speed = f"{seen / took:.0f} tok/s  {took:.0f} s, {left:.0f} s left"
            print(f"step {step + 1}/{steps}  loss {total / 50:.4f}  {speed}", flush=True)
            total = 0.0
            snapshot(step + 1)
    quantized.detach(model)
    return time.monotonic() - started


def replace(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a checkpoint beside the old one, then put it in its place."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.save(model, tokenizer, aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def make(args: argparse.Namespace) -> None:
    """Train the tokenizer and the model and put them into the output folder."""
    rng = random.Random(f"tokenizer-{args.seed}")
    tokenizer = checkpoint.train_tokenizer(training(rng).full() for _ in range(30000))
    model = LlamaForCausalLM(config(len(tokenizer)))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)

    def snapshot(step: int) -> None:
        if args.snapshots and step % args.snapshots == 0 and step < args.steps * (1 - QAT):
            replace(args.out / f"step-{step}", model, tokenizer)

    took = train(model, tokenizer, args.steps, args.seed, args.lr, snapshot)
    print(f"trained in {took:.0f} s", flush=True)
    replace(args.out / "model", model, tokenizer)


def write_lines(path: Path, records: Any) -> None:
    """Write JSON lines, aside first and then renamed."""
    aside = path.with_name(path.name + ".part")
    aside.write_text("".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in records))
    aside.replace(path)


def write_data(out: Path, seed: int, sample: int) -> None:
    """Write the held-out file and, on request, a sample of what training sees."""
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "heldout.jsonl", heldout(seed))
    (out / "schema.json").write_text(json.dumps(SCHEMA, indent=2) + "\n")
    if sample:
        rng = random.Random(f"train-{seed}")
        write_lines(out / "train_sample.jsonl", (training(rng).record("train") for _ in range(sample)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluate(out: Path, limit: int | None = None, show: bool = False) -> dict[str, Any]:
    """Exact match of the checkpoint in `out`/model, in fp32 and with simulated int8 and int4 weights."""
    report: dict[str, Any] = {}
    for mode in ("fp32", "int8", "int4"):
        model, tokenizer = checkpoint.load(out / "model")
        quantized.convert(model, mode)
        for name in ("heldout", "stranger"):
            path = out / f"{name}.jsonl"
            path = path if path.exists() else DEMO / path.name
            if path.exists():
                items = read_lines(path)[:limit]
                report[f"{mode}/{name}"] = quantized.score(model, tokenizer, items, show and mode == "fp32")
                print(mode, name, json.dumps(report[f"{mode}/{name}"]), flush=True)
    print(table(report))
    return report


def table(report: dict[str, Any]) -> str:
    """The figures as the model card shows them."""
    lines = ["| | fp32 | int8 | int4 |", "|---|---|---|---|"]
    rows = [("heldout", key) for key in ("all", "combination", "phrasing", "command", "state", "other")]
    rows += [("stranger", key) for key in ("all", "command", "state", "other")]
    for name, key in rows:
        cells = [report.get(f"{mode}/{name}", {}).get(key, "") for mode in ("fp32", "int8", "int4")]
        lines.append(f"| {name}, {key} | " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for model/, heldout.jsonl and schema.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--lr", type=float, default=0.012, help="peak step of Muon; AdamW takes 0.15 of it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--snapshots", type=int, default=0, help="also keep a checkpoint every so many steps")
    parser.add_argument("--sample", type=int, default=0, help="also write this many training conversations")
    parser.add_argument("--data-only", action="store_true", help="write the splits, train nothing")
    parser.add_argument("--eval-only", action="store_true", help="score the checkpoint already in --out")
    parser.add_argument("--show", action="store_true", help="print the answers that are wrong")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    if args.eval_only:
        evaluate(args.out, show=args.show)
        return
    write_data(args.out, args.seed, args.sample)
    if args.data_only:
        return
    make(args)
    evaluate(args.out, show=args.show)


if __name__ == "__main__":
    main()
