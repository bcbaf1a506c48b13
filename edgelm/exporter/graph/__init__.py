"""A decoder and its weights as an ONNX graph."""
