"""Landmark (keypoint) regression."""
