"""Everything that is decided before a device is asked: cohort, sums, noise, budget."""
