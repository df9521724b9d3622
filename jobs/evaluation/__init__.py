"""Metrics with intervals, and the report that shows them."""
