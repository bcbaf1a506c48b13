"""Speed, memory and load time of edgelm beside llama.cpp, onnxruntime-genai, Optimum and transformers."""
