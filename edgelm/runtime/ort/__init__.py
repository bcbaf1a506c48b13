"""onnxruntime: sessions, packed weights and their cache."""
