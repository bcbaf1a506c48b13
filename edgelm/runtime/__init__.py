"""The device half: bundle → engine → tokens → text. onnxruntime, numpy, tokenizers and jinja2, nothing else."""
