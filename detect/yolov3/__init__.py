"""YOLOv3: network, targets, loss."""
