"""The common part of all benchmarks: trainings, run folders, variants of the method, reports."""
