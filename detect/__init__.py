"""Object detection: YOLOv3 and CenterNet."""
