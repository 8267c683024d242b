"""SSD: network, anchors, targets, losses."""
