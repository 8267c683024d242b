"""A module for each format of labels, reading and writing."""
