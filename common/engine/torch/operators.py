"""The table with all operators in it: each of the modules that are imported first enters its own."""

from common.engine.torch import arithmetic, layers, shapes  # noqa: F401
from common.engine.torch.operator_table import OPERATORS, Call, Operator, Pass, Seen

__all__ = ["OPERATORS", "Call", "Operator", "Pass", "Seen"]
