"""Models: features, networks, heads, and their export to ONNX."""
