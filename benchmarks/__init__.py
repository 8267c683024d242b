"""Measurements, beside what a user would take instead."""
