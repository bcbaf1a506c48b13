"""Building an ONNX graph and its file of external data."""
