"""What a mistyped command or option may have meant: by its beginning, by what other programs call it, by its letters."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import click

from edgelm.errors import near

# What others call a command → ours.
_COMMANDS = {
    "export": ("convert", "quantize", "quantise", "build", "make", "create", "compile"),
    "run": ("generate", "complete", "completion", "prompt", "ask", "infer", "cli"),
    "chat": ("talk", "interactive", "repl", "conversation"),
    "serve": ("server", "api", "start"),
    "models": ("search", "catalog", "catalogue", "library", "hub"),
    "pull": ("download", "fetch", "get", "install", "add"),
    "list": ("ls", "ps", "bundles"),
    "rm": ("remove", "delete", "del", "uninstall", "prune"),
    "inspect": ("show", "info", "describe", "view", "stat"),
    "verify": ("check", "validate", "hash", "checksum", "test"),
    "targets": ("boards", "devices", "target", "platforms"),
    "families": ("architectures", "family", "supported"),
    "estimate": ("forecast", "predict", "fit", "plan"),
    "bench": ("benchmark", "speed", "perf", "measure"),
    "doctor": ("diagnose", "status", "env", "system", "setup"),
    "emulate": ("qemu", "simulate"),
    "eval": ("evaluate", "perplexity", "ppl", "score", "quality"),
}
# What others call an option → ours, of which a command has one.
_OPTIONS = {
    "--max-tokens": ("--n-predict", "--predict", "--max-new-tokens", "--num-predict", "--length", "--max-length"),
    "--temperature": ("--t",),
    "--context": ("--ctx-size", "--ctx", "--n-ctx", "--num-ctx", "--max-seq-len", "--context-length", "--max-context"),
    "--prompt": ("--text", "--input", "--message"),
    "--prompt-file": ("--file", "--input-file"),
    "--system": ("--system-prompt", "--sys"),
    "--repetition-penalty": ("--repeat-penalty", "--rep-pen"),
    "--json-schema": ("--schema", "--grammar", "--format"),
    "--output": ("--out", "--outfile", "--output-dir", "--dest"),
    "--quant": ("--quantization", "--quantize", "--precision", "--dtype", "--bits", "--type", "--format", "-q"),
    "--target": ("--device", "--board", "--platform", "--arch"),
    "--overwrite": ("--replace", "--yes", "-y"),
    "--stats": ("--verbose", "-v", "--timings", "--perf"),
    "--threads": ("--n-threads", "--num-threads"),
    "--adapter": ("--lora",),
    "--draft": ("--model-draft", "--draft-model", "-md"),
    "--n-prompt": ("--prompt-tokens", "--pp"),
    "--n-gen": ("--gen-tokens", "--tg"),
    "--text": ("--dataset", "--corpus"),
    "--json": ("--format",),
    "--raw": ("--no-template", "--no-chat-template"),
    "--template-arg": ("--chat-template-kwargs", "--think", "--reasoning"),
    "--version": ("-V", "--ver"),
    "--prompt-cache": ("--cache", "--slot-save-path"),
}
# What is not an option here, and why.
_NONE = {
    ("--model", "-m"): "the model or bundle is the first argument, without an option",
    ("--context", "-c", "--ctx-size", "--n-ctx"): "a bundle's context is that of its export: edgelm export MODEL "
    "--context N",
    (
        "--quant",
        "--target",
    ): "a bundle has the recipe and target of its export: edgelm export MODEL --target T --quant Q",
    ("--n-gpu-layers", "--gpu-layers", "--gpu", "--device", "--provider"): "the target that a bundle was exported for "
    "says what runs it: edgelm targets",
    ("--interactive", "-i", "--conversation", "-cnv"): "to talk: edgelm chat BUNDLE",
    ("--stream", "--no-stream"): "text is printed as it comes; --json prints it at the end",
    ("--verbose", "-v", "--debug"): "EDGELM_DEBUG=1 shows where an error came from",
}


def nearest_command(name: str, known: Collection[str]) -> str:
    """A hint for a command that is none of `known`."""
    wanted = name.lower()
    meant = [ours for ours, others in _COMMANDS.items() if wanted in others and ours in known]
    meant = meant or [one for one in known if len(wanted) > 1 and one.startswith(wanted)]
    return _did_you_mean(meant) if meant else near(name, known, listing="commands")


def nearest_option(error: click.NoSuchOption) -> str | None:
    """A hint for an option that its command has not, or None."""
    given, ctx = error.option_name.replace("_", "-"), error.ctx
    if ctx is None:
        return None
    known = [name for p in ctx.command.params if isinstance(p, click.Option) and not p.hidden for name in p.opts]
    long = [name for name in known if name.startswith("--")]
    if given.lower() in known:
        return _did_you_mean([given.lower()])
    meant = [ours for ours, others in _OPTIONS.items() if given in others and ours in known]
    if not meant and (why := next((why for names, why in _NONE.items() if given in names), None)) is not None:
        return why
    meant = meant or [name for name in long if len(given) > 3 and name.startswith(given)]
    if meant:
        return _did_you_mean(meant)
    hint = near(given, long)
    return hint if hint.startswith("did you mean") and given.startswith("--") else None


def _did_you_mean(names: Iterable[str]) -> str:
    return f"did you mean {' or '.join(names)}?"
