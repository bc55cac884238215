"""Metrics, baselines and the report: numpy and scipy alone."""
