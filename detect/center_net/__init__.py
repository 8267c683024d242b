"""CenterNet: network, targets, loss."""
