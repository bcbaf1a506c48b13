"""The export path for every model without a native family: Optimum traces it, `surgery` stores it as a recipe wants it.

Needs torch, transformers and optimum-onnx; none of them is imported before a graph is written.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.bundle.reader import DATA, MODEL
from edgelm.bundle.writer import BundleWriter
from edgelm.errors import CheckpointError, DependencyError, EdgeLMError, ExportError, UnsupportedModelError, near
from edgelm.exporter import families
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.onnx.store import DataFile
from edgelm.exporter.optimum import surgery
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.target.target import RecipeSpec, Target

_TASK = "text-generation-with-past"
_OPSET = 18  # at least: `surgery` knows what changed since
_INSTALL = "pip install 'edgelm[optimum]'"
_MODULES = {"torch": "torch", "transformers": "transformers", "optimum.exporters.onnx": "optimum-onnx"}


def require() -> None:
    """Raise DependencyError, which names the pip command, unless Optimum can be imported; imports nothing heavy."""
    missing = [package for module, package in _MODULES.items() if not _is_installed(module)]
    if missing:
        raise DependencyError(f"exporting through Optimum needs {', '.join(missing)}", hint=_INSTALL)


def write_graph(
    checkpoint: Checkpoint,
    target: Target,
    spec: RecipeSpec,
    writer: BundleWriter,
    progress: Progress,
    rows: np.ndarray | None = None,
) -> GraphResult:
    """Write model.onnx and model.onnx.data into the bundle, with the embeddings of the tokens `rows`; None for all.

    Activations and cache stay float32 whatever the `target` prefers: the trace is made of float32 operators.

    Raises:
        DependencyError: Optimum is installed, but cannot be imported.
        UnsupportedModelError: Optimum does not know the model type, or its graph cannot be driven.
        CheckpointError: a tensor is missing or not finite.
        ExportError: Optimum fails.
    """
    progress.start("tracing with Optimum", 0)  # importing torch takes a while, too
    _expect_supported(checkpoint)
    with tempfile.TemporaryDirectory(prefix=".trace-", dir=writer.folder, ignore_cleanup_errors=True) as folder:
        trace = Path(folder) / MODEL
        parameters = _trace(checkpoint, trace, rows)
        progress.finish()
        with DataFile(writer.path(DATA)) as data:
            found = surgery.rewrite(trace, writer.path(MODEL), data, spec, checkpoint.path, progress)
    return GraphResult(
        graph=found.graph,
        recipe=found.recipe,
        parameters=parameters,
        weight_bytes_per_token=found.weight_bytes,
        kv_bytes_per_token=found.kv_bytes,
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing, or half removed
        return False


def _expect_supported(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModelError unless Optimum knows how to trace this kind of model as a decoder."""
    kind = checkpoint.config.model_type
    if checkpoint.config.flag("is_encoder_decoder"):
        raise UnsupportedModelError(f"{checkpoint.path}: {kind!r} is an encoder-decoder; edgelm runs decoders only")
    with _quiet(), _told_shortly(checkpoint.path):
        import optimum.exporters.onnx.model_configs  # noqa: F401  — registers what it supports
        from optimum.exporters.tasks import TasksManager

        known = sorted(TasksManager.get_supported_model_type_for_task(_TASK, "onnx"))
    if kind not in known:
        native = families.model_types()
        raise UnsupportedModelError(
            f"{checkpoint.path}: model type {kind!r} has no native family ({', '.join(native)}), "
            f"and is not one of the {len(known)} types that Optimum exports",
            hint=near(kind, {*native, *known}, listing="supported"),
        )


def _trace(checkpoint: Checkpoint, path: Path, rows: np.ndarray | None) -> int:
    """Trace the checkpoint into the float32 graph `path`; the model's number of parameters, as traced."""
    with _quiet(), _offline(), _told_shortly(checkpoint.path):
        import torch
        from optimum.exporters.onnx import export
        from optimum.exporters.tasks import TasksManager
        from optimum.exporters.utils import DisableCompileContextManager
        from transformers import AutoModelForCausalLM

        with DisableCompileContextManager():
            model, loading = AutoModelForCausalLM.from_pretrained(
                checkpoint.path,
                torch_dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if missing := sorted(loading["missing_keys"]):  # transformers would fill them with noise
            raise CheckpointError(
                f"{checkpoint.path}: tensor '{missing[0]}' is missing",
                hint="the checkpoint is incomplete, or config.json belongs to another model",
            )
        if rows is not None:
            _keep_tokens(model, rows, checkpoint.path)
        model.config.use_cache = True
        describe = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task=_TASK, library_name="transformers"
        )
        config = describe(model.config, float_dtype="fp32", use_past=True, use_past_in_inputs=True)
        # Without folding, weights keep their names and tied ones stay one; onnxruntime folds the rest at load.
        # Fixing the dynamic axes would run the graph once: the shapes are known here.
        export(
            model,
            config,
            path,
            opset=max(config.DEFAULT_ONNX_OPSET, _OPSET),
            do_constant_folding=False,
            disable_dynamic_axes_fix=True,
        )
        parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    gc.collect()  # the traced module refers to itself: its weights go now, not some time
    return int(parameters)


def _keep_tokens(model: Any, rows: np.ndarray, path: Path) -> None:
    """Leave the rows of these tokens in a torch model's embedding and head, which may be one tensor."""
    from torch.nn import Parameter

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embedding is None:
        raise UnsupportedModelError(
            f"{path}: this model's embedding and head cannot be told, so its vocabulary cannot be trimmed",
            hint="leave --trim-vocab out",
        )
    tied = head.weight is embedding.weight
    embedding.weight = Parameter(embedding.weight.detach()[rows])
    head.weight = embedding.weight if tied else Parameter(head.weight.detach()[rows])
    if getattr(head, "bias", None) is not None:
        head.bias = Parameter(head.bias.detach()[rows])
    embedding.num_embeddings = head.out_features = model.config.vocab_size = len(rows)
    embedding.padding_idx = None


@contextlib.contextmanager
def _told_shortly(path: Path) -> Iterator[None]:
    """Turn whatever torch, transformers and Optimum raise into one line."""
    try:
        yield
    except EdgeLMError:
        raise
    except ImportError as error:
        raise DependencyError(f"Optimum cannot be imported: {_first_line(error)}", hint=_INSTALL) from error
    except MemoryError as error:
        raise ExportError(
            f"not enough memory to trace {path}", hint="export on a machine with more; the bundle runs anywhere"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk and the like, told by the writer
            raise
        raise ExportError(f"Optimum cannot export {path}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's warnings, logs and progress bars from the user, who can do nothing about them."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # should a library import onnxruntime before edgelm does
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _without_bars():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    try:
        from transformers.utils import logging as bars
    except ImportError:  # told by whoever imports it next
        yield
        return
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let no library ask the hub; the environment variable would be read too late, and stay."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
