"""Use a bundle: the signature first, then onnxruntime, then an answer or "don't know". No torch, no network."""
