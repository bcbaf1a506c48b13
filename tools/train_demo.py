"""Train the embedded default model, from word lists to a checkpoint folder, on two CPU cores.

    python tools/train_demo.py                       # the model in edgelm/demo/, an hour with bfloat16 and g++
    python tools/train_demo.py --data-only --out /tmp/data

The text is made on the fly by `demo_data`; nothing is downloaded. With the same seed, thread count and torch version
the same weights come out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import demo_data
import torch
from demo_data import checkpoint, quantized
from demo_data.conversations import Conversation, heldout, training, training_group
from demo_data.muon import Muon
from demo_data.network import Network
from demo_data.other import REFUSAL
from demo_data.packing import IGNORED, Batch, Group, pack, stack
from demo_data.schema import SCHEMA
from transformers import LlamaConfig, PreTrainedTokenizerFast

DEMO = Path(__file__).resolve().parents[1] / "edgelm" / "demo"
ROW, ROWS = 256, 10  # a batch: 10 rows of 256 tokens, each holding several groups of conversations
POOL = 800  # groups of conversations packed together
GROWTH = 400  # batches over which conversations grow to their full length
FIRST = 300  # batches in which homes are recited above all: a value is found by its name before anything else is learnt
LAST = 4000  # batches after which there is more of what is said most
CUT = 0.85  # share of refusals, all of one sentence, of which only the beginning is read: the rest is soon known
BEGIN = 2  # tokens of it
FAST_BF16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())  # else float32 is the faster type
KEPT = 100  # steps after which a run that is ended can go on
DECAY = 0.4  # share of the last steps over which the learning rate falls
FINISH_LR = 0.2  # of the peak step, in those that finish the model
# Share of the last weights in the mean with those before: what is learnt last is paid for with a little of all else, and
# the mean pays half of it and keeps most (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
FINISHED = 0.5
QAT = 0.1  # share of the last steps in which weights are rounded to int4 in the forward pass


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


Maker = Callable[[random.Random], list[Conversation]]  # of conversations about one home


def training_maker(batches: int) -> Maker:
    """Of what training reads after so many batches."""
    return partial(training_group, hard=min(1.0, batches / GROWTH), part=int(batches >= LAST), first=batches < FIRST)


def finishing_maker(_batches: int) -> Maker:
    """Of what is read when the model is finished: the same after any number."""
    return partial(training_group, part=2)


def groups(tokenizer: PreTrainedTokenizerFast, rng: random.Random, make: Maker, count: int) -> list[Group]:
    """`count` groups of conversations, as token ids."""
    made = []
    for _ in range(count):
        conversations = make(rng)
        start = [m for m in conversations[0].messages if m["role"] == "system"]
        opening, _ = checkpoint.encode(tokenizer, start)
        pairs = [checkpoint.encode(tokenizer, c.full()) for c in conversations]
        branches = [(ids[len(opening) :], targets[len(opening) :]) for ids, targets in pairs]
        for i, made_of in enumerate(conversations):
            if made_of.answer == REFUSAL and rng.random() < CUT:
                branches[i] = shortened(*branches[i])
        while len(group := Group(opening, branches)) > ROW and len(branches) > 1:
            branches.pop()  # less is asked about a large home
        made.append(group)
    return made


def shortened(ids: list[int], targets: list[int]) -> tuple[list[int], list[int]]:
    """A branch without the end of its last answer, of which the first tokens decide all others."""
    start = max(i for i, target in enumerate(targets) if target != IGNORED and targets[i - 1] == IGNORED)
    return ids[: start + BEGIN], targets[: start + BEGIN]


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: str, maker: Callable[[int], Maker], start: int = 0
) -> Iterator[Batch]:
    """Batches of ROWS rows for ever, from number `start` on; `maker` says what makes them after so many."""
    rng = random.Random(seed)
    made = 0
    while True:
        rows = pack(groups(tokenizer, rng, maker(made), POOL), ROW)
        rng.shuffle(rows)
        for i in range(0, len(rows) - ROWS + 1, ROWS):
            made += 1
            if made > start:
                yield stack(rows[i : i + ROWS], ROW)


def compiled(network: Network, batch: Batch) -> Callable[..., torch.Tensor]:
    """The network's forward pass, compiled where there is a C++ compiler: three quarters of the time of the plain one."""
    forward: Callable[..., torch.Tensor] = torch.compile(network, dynamic=False)
    try:
        loss_of(network, forward, batch).backward()
    except Exception as error:  # whatever the compiler is missing, the plain pass computes the same
        print(f"not compiled: {str(error).strip().splitlines()[0]}", flush=True)
        forward = network
    network.zero_grad(set_to_none=True)
    return forward


def loss_of(network: Network, forward: Callable[..., torch.Tensor], batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the answers; `forward` is the network or its compiled form."""
    with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BF16):
        hidden = forward(batch.ids, batch.positions, batch.mask)
        # The last token of an opening does not precede what follows it in the row, but no target follows it either:
        # a branch begins with the user's role.
        wanted = batch.targets[:, 1:]
        scored = wanted != IGNORED
        logits = network.logits(hidden[:, :-1][scored])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[scored])


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over 60 steps, level, and down to 1 % over the last DECAY of them."""
    return min((step + 1) / 60, max(0.01, min(1.0, (steps - step) / (DECAY * steps))))


def optimizers_of(network: Network, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    named = list(network.named_parameters())
    matrices = [p for n, p in named if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in named if p.dim() != 2 or "embed" in n]
    found = [
        Muon(matrices, lr, weight_decay=0.1, dtype=torch.bfloat16 if FAST_BF16 else torch.float32),
        torch.optim.AdamW(rest, lr=lr * 0.15, betas=(0.9, 0.98)),
    ]
    for group in (g for o in found for g in o.param_groups):
        group["peak"] = group["lr"]
    return found


def keep(path: Path, network: Network, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Write all that the next steps need, beside and then in place of what was written before."""
    aside = path.with_name(path.name + ".part")
    found = {"step": step, "network": network.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    torch.save(found, aside)
    aside.replace(path)


def round_off(network: Network) -> None:
    """Train rounded weights from here on, and each token by itself: they are what the model is stored as."""
    network.let_differ()
    quantized.attach(network)


def resume(path: Path, network: Network, optimizers: list[torch.optim.Optimizer], rounded: int) -> int:
    """Take up what `keep` wrote, if anything, with weights that are rounded from a step on; returns the steps done."""
    if not path.exists():
        return 0
    found = torch.load(path)
    if found["step"] > rounded:
        round_off(network)
    network.load_state_dict(found["network"])
    for optimizer, state in zip(optimizers, found["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    print(f"on from step {found['step']}", flush=True)
    return int(found["step"])


def train(
    network: Network,
    stream_from: Callable[[int], Iterator[Batch]],
    steps: int,
    rounded: int,
    lr: float,
    kept: Path,
    snapshot: Callable[[int], None] = lambda step: None,
) -> float:
    """Train in place, reporting every 50 steps, on from what a run that was ended has `kept`; returns the seconds taken.

    Batches come from a stream that begins with any number; weights are rounded from step `rounded` on.
    """
    optimizers = optimizers_of(network, lr)
    first = resume(kept, network, optimizers, rounded)
    # Made between steps: a thread of its own would take turns with those of the products, which wait for each other.
    stream = stream_from(first)
    started, seen, total = time.monotonic(), 0, 0.0
    network.train()
    batch = next(stream)
    if first == rounded:
        round_off(network)
    forward = compiled(network, batch)
    for step in range(first, steps):
        if step == rounded != first:
            round_off(network)
            forward = compiled(network, batch)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = group["peak"] * schedule(step, steps)
        loss = loss_of(network, forward, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen, total, batch = seen + batch.ids.numel(), total + loss.item(), next(stream)
        if (step + 1) % 50 == 0:
            took = time.monotonic() - started
            left = took / (step + 1 - first) * (steps - step - 1)
            speed = f"{seen / took:.0f} tok/s  {took:.0f} s, {left:.0f} s left"
            print(f"step {step + 1}/{steps}  loss {total / 50:.4f}  {speed}", flush=True)
            total = 0.0
            snapshot(step + 1)
        if (step + 1) % KEPT == 0:
            keep(kept, network, optimizers, step + 1)
    quantized.detach(network)
    return time.monotonic() - started


def replace(folder: Path, network: Network, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a checkpoint beside the old one, then put it in its place."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.save(network.llama(), tokenizer, aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def named(args: argparse.Namespace) -> str:
    """What a run that goes on must share with the one that was ended: seed, steps, and all that makes the text."""
    found = hashlib.sha256()
    for path in sorted(p for p in Path(demo_data.__file__).parent.rglob("*") if p.suffix in {".py", ".txt"}):
        found.update(path.read_bytes())
    return f"{args.seed}-{args.steps}-{found.hexdigest()[:8]}"


def make(args: argparse.Namespace) -> None:
    """Train the tokenizer and the model and put them into the output folder."""
    rng = random.Random(f"tokenizer-{args.seed}")
    tokenizer = checkpoint.train_tokenizer(training(rng).full() for _ in range(15000))
    network = Network(config(len(tokenizer)))
    count = sum(p.numel() for p in network.parameters())
    print(f"{count:,} parameters, {len(tokenizer)} tokens", flush=True)
    name = named(args)
    trained = args.out / f"trained-{name}"
    if not trained.is_dir():  # else a run was ended behind it
        network.start_recalling()
        network.hold_alike(checkpoint.variants(tokenizer))
        rounded = int(args.steps * (1 - QAT))

        def snapshot(step: int) -> None:
            if args.snapshots and step % args.snapshots == 0 and step < rounded:
                replace(args.out / f"step-{step}", network, tokenizer)

        kept = args.out / f"unfinished-{name}.pt"
        stream = partial(batches, tokenizer, f"train-{args.seed}", training_maker)
        took = train(network, stream, args.steps, rounded, args.lr, kept, snapshot)
        print(f"trained in {took:.0f} s", flush=True)
        replace(trained, network, tokenizer)
        kept.unlink(missing_ok=True)
    finish(args, network, tokenizer, trained, args.out / f"finishing-{name}.pt")
    shutil.rmtree(trained)


def finish(
    args: argparse.Namespace, network: Network, tokenizer: PreTrainedTokenizerFast, trained: Path, kept: Path
) -> None:
    """Train what is trained a little more, with small steps and rounded weights, on more of what is refused and of
    questions about several devices, and of places of no list: a model that knows what is said to it learns now when to keep
    still, and where.
    """
    network.load_state_dict(checkpoint.load(trained)[0].state_dict(), strict=False)  # but for lm_head
    before = [p.detach().clone() for p in network.parameters()]
    stream = partial(batches, tokenizer, f"finish-{args.seed}", finishing_maker)
    took = train(network, stream, args.finish, 0, args.lr * FINISH_LR, kept)
    with torch.no_grad():
        for p, earlier in zip(network.parameters(), before, strict=True):
            p.lerp_(earlier, 1 - FINISHED)
    print(f"finished in {took:.0f} s", flush=True)
    replace(args.out / "model", network, tokenizer)
    kept.unlink(missing_ok=True)


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
    if (out / "model").is_dir():
        checkpoint.write_grammar(out / "model")
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
    parser.add_argument("--steps", type=int, default=8800)
    parser.add_argument("--finish", type=int, default=900, help="steps behind them, small ones: see `finish`")
    parser.add_argument("--lr", type=float, default=0.01, help="peak step of Muon; AdamW takes 0.15 of it")
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
