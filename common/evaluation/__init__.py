"""How good predictions are, beyond the one number that training watches: curves, worst cases, the report."""
