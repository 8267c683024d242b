"""Exported models as ONNX: translation of MXNet's graphs, and the proof that a file predicts what its model does."""
