"""Studies: many runs of a scenario. Sweeps over a grid, comparisons at equal cost, tuning on validation data."""
