"""Device: the device's side of the same flows. Training is imported only when it trains."""
