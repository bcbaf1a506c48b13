"""What `Runner` takes of onnxruntime beyond its documented interface: a new onnxruntime that lacks it fails here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import OrtDevice, OrtValue, OrtValueVector

from edgelm.runtime.ort.session import Runner, Values, open_session, ort


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``first [1, n] = x * scale`` and ``present = past + 1``; the input `scale` has a default value, 2."""

    def value(name: str, *shape: int | str) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    x, past, scale, one = value("x", 1, "n"), value("past", 4), value("scale", 1), value("one", 1)
    for constant, number in ((scale, 2), (one, 1)):
        constant.const_value = ir.tensor(np.array([number], np.float32), name=constant.name)
    first, present = value("first", 1, "n"), value("present", 4)
    nodes = [ir.node("Mul", [x, scale], outputs=[first]), ir.node("Add", [past, one], outputs=[present])]
    graph = ir.Graph(
        [x, past, scale], [first, present], nodes=nodes, initializers=[scale, one], opset_imports={"": 21}, name="g"
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    return open_session(Path(path), 1, ["CPUExecutionProvider"])


def test_the_private_names_have_the_signatures_that_are_used(opened: Any) -> None:
    called = opened._sess.run_with_ortvaluevector.__doc__
    wanted = ["RunOptions", "Sequence[str]", "vector<OrtValue", "Sequence[str]", "vector<OrtValue", "OrtDevice"]
    found = called.split("arg0:")[1].split(") -> None")[0].split(", arg")
    assert [kind in argument for kind, argument in zip(wanted, found, strict=True)] == [True] * 6, called

    binding = opened.io_binding()
    binding.bind_output("first", "cpu")
    assert isinstance(binding._iobinding.get_outputs(), OrtValueVector)
    unallocated = binding._iobinding.get_outputs()[0]
    assert isinstance(unallocated, OrtValue)

    array = np.arange(3, dtype=np.float32)
    value = ort.OrtValue.ortvalue_from_numpy(array)
    assert isinstance(value._ortvalue, OrtValue)
    vector = OrtValueVector()
    vector.push_back(value._ortvalue)
    assert [held.numpy().tolist() for held in vector] == [[0, 1, 2]]
    array[0] = 7  # the memory is borrowed, not copied
    assert vector[0].numpy()[0] == 7

    assert OrtDevice(OrtDevice.cpu(), OrtDevice.default_memory(), 0).device_type() == OrtDevice.cpu()
    names = [overridden.name for overridden in opened.get_overridable_initializers()]
    assert names == ["scale"]
    assert list(inspect.signature(opened.run_with_ort_values).parameters) == [
        "output_names",
        "input_dict_ort_values",
        "run_options",
    ]


def test_a_call_allocates_the_first_output_and_writes_the_others_where_they_are(opened: Any) -> None:
    """What IOBinding refuses: inputs left to their default value, beside outputs in memory of the caller's."""
    runner, past = Runner(opened, ["first", "present"]), np.zeros(4, np.float32)
    for count in (1, 3):  # the size is not known beforehand
        x = np.full((1, count), 5, np.float32)
        first = runner.run_first(["x", "past"], Values([x, past]), Values([past]))  # in place
        assert first.tolist() == [[10.0] * count]
        assert past.tolist() == [count // 2 + 1.0] * 4
    runner.always({"scale": np.array([3], np.float32), "unknown": np.zeros(1)})
    into = np.zeros((1, 1), np.float32)
    runner.run(["x", "past"], Values([np.ones((1, 1), np.float32), past]), Values([into, past]), prompt=True)
    assert into.tolist() == [[3.0]]
    runner.always({})
    assert runner.run_first(["x", "past"], Values([into, past]), Values([past])).tolist() == [[6.0]]
