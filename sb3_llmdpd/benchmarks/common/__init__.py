"""What all benchmarks share: grids of trainings, run folders, variants of the method."""
