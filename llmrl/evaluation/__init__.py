"""Honest comparison: text metrics, paired differences with intervals, reports."""
