"""What is compared: each engine's worker, its weights, and which of edgelm's it is held against."""

from __future__ import annotations

from dataclasses import dataclass

GENAI_OPTIONS = ("prune_lm_head=true", "fuse_mlp_gate_up=true")  # its builder's own, off by default, both faster here


@dataclass(frozen=True)
class EngineSpec:
    """An engine with one kind of weights.

    Attributes:
        name: on the command line.
        label: in tables.
        worker: module in benchmarks/peers/workers.
        python: whose Python runs it: ``edgelm`` (this one), ``llama`` or ``genai``.
        weights: how they are stored.
        against: the engines of edgelm whose figures are divided by this one's; none for edgelm's own.
        options: of its converter or its worker.
    """

    name: str
    label: str
    worker: str
    python: str
    weights: str
    against: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


_INT4 = ("edgelm-int4-fast-prefill-int8", "edgelm-int4-fast", "edgelm-int4")
_ALL = (
    EngineSpec("edgelm-int4", "edgelm int4", "on_edgelm", "edgelm", "int4"),
    EngineSpec("edgelm-int4-fast", "edgelm int4-fast", "on_edgelm", "edgelm", "int4-fast"),
    EngineSpec(
        "edgelm-int4-fast-prefill-int8", "edgelm int4-fast, prefill int8", "on_edgelm", "edgelm", "int4-fast",
        options=("--prefill", "int8"),
    ),
    EngineSpec("edgelm-int8", "edgelm int8", "on_edgelm", "edgelm", "int8"),
    EngineSpec("edgelm-fp32", "edgelm fp32", "on_edgelm", "edgelm", "fp32"),
    EngineSpec("llama-q4_0", "llama.cpp Q4_0", "on_llama", "llama", "q4_0", _INT4),
    EngineSpec("llama-q8_0", "llama.cpp Q8_0", "on_llama", "llama", "q8_0", ("edgelm-int8",)),
    EngineSpec(
        "llama-q4_0-no-fa", "llama.cpp Q4_0, no flash attention", "on_llama", "llama", "q4_0", _INT4,
        options=("no-flash-attention",),
    ),
    EngineSpec("llama-f32", "llama.cpp F32", "on_llama", "llama", "f32", ("edgelm-fp32",)),
    EngineSpec(
        "genai-int4", "onnxruntime-genai int4", "on_genai", "genai", "int4", _INT4, options=GENAI_OPTIONS
    ),
    EngineSpec("genai-int4-default", "onnxruntime-genai int4, builder's defaults", "on_genai", "genai", "int4", _INT4),
    EngineSpec("optimum-fp32", "Optimum fp32", "on_optimum", "edgelm", "fp32", _INT4),
    EngineSpec("torch-fp32", "transformers fp32", "on_torch", "edgelm", "float32", _INT4),
    EngineSpec("torch-bf16", "transformers bf16", "on_torch", "edgelm", "bfloat16", _INT4),
)  # fmt: skip
ENGINES = {spec.name: spec for spec in _ALL}
DEFAULT = (
    "edgelm-int4",
    "edgelm-int4-fast",
    "edgelm-int4-fast-prefill-int8",
    "edgelm-int8",
    "llama-q4_0",
    "llama-q4_0-no-fa",
    "llama-q8_0",
    "genai-int4",
    "optimum-fp32",
    "torch-fp32",
)
