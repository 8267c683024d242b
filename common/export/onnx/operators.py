"""The table with all operators in it: each of the modules that are imported first enters its own."""

from common.export.onnx import arithmetic, layers, shapes  # noqa: F401
from common.export.onnx.operator_table import OPERATORS, Call

__all__ = ["OPERATORS", "Call"]
