"""What int8 and int4 storage will do to the model: simulated in torch, for training and for scoring.

int4 is symmetric round-to-nearest in blocks of 32 along the input, scale = the largest value / -8, on every matrix
and on the tied embedding and head. int8 is one scale per output channel, with activations quantised per row.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.nn.utils import parametrize
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from . import checkpoint
from .network import Network

BLOCK = 32


def int4(weight: torch.Tensor) -> torch.Tensor:
    """Weights as int4 would give them back; shape [out, in], `in` a multiple of 32."""
    blocks = weight.reshape(-1, BLOCK)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return ((blocks / scale).round().clamp(-8, 7) * scale).reshape(weight.shape)


def int8(values: torch.Tensor) -> torch.Tensor:
    """Each row rounded to 8 bits by its own scale."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return (values / scale).round().clamp(-127, 127) * scale


class _Straight(torch.nn.Module):
    """Rounded forwards, straight through backwards."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (int4(weight.detach()) - weight.detach())


def _matrices(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear)]


def attach(network: Network) -> None:
    """Train on int4 weights from here on, the tied embedding and head included."""
    for module in [*_matrices(network), network.model.embed_tokens]:
        parametrize.register_parametrization(module, "weight", _Straight())


def detach(network: Network) -> None:
    """Take the rounding away again; the unrounded weights stay."""
    for module in [*_matrices(network), network.model.embed_tokens]:
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def convert(model: LlamaForCausalLM, mode: str) -> None:
    """Make a loaded model compute as it would when stored as `mode`: fp32, int8 or int4."""
    if mode == "fp32":
        return
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_((int4 if mode == "int4" else int8)(model.model.embed_tokens.weight))
        for module in _matrices(model.model):
            module.weight.copy_((int4 if mode == "int4" else int8)(module.weight))
    if mode == "int8":
        for module in _matrices(model):
            module.register_forward_pre_hook(lambda _, args: (int8(args[0]),))


@torch.no_grad()
def answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[dict[str, Any]]) -> list[str]:
    """Greedy answers, batched by prompt length so that no padding is needed."""
    by_length = defaultdict(list)
    for i, item in enumerate(items):
        prompt = [*checkpoint.encode(tokenizer, item["messages"])[0], checkpoint.ASSISTANT]
        by_length[len(prompt)].append((i, prompt))
    out = [""] * len(items)
    for group in by_length.values():
        ids = torch.tensor([p for _, p in group])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, do_sample=False)
        for (i, _), row in zip(group, made[:, ids.shape[1] :], strict=True):
            out[i] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return out


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[dict[str, Any]], show: bool = False
) -> dict[str, float]:
    """Exact match in percent: over all, per split and per kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item, got in zip(items, answers(model, tokenizer, items), strict=True):
        ok = got == item["answer"]
        for key in ("all", item["split"], item["kind"]):
            right[key].append(ok)
        if show and not ok:
            system = [m["content"] for m in item["messages"] if m["role"] == "system"]
            print("WRONG", *system, "|", item["messages"][-1]["content"], "\n   want", item["answer"], "\n   got ", got)
    return {key: round(100 * sum(v) / len(v), 1) for key, v in right.items()}
