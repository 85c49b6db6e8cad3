"""Ways to compute private gradients: Opacus, one example at a time, whole cohorts in one batched step."""
