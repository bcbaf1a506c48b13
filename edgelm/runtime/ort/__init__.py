"""onnxruntime: sessions, prepacked weights and their cache."""
