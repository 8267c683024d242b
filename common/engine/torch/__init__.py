"""The engine that computes with PyTorch: the same graphs, read operator by operator. Nothing in here needs MXNet."""
