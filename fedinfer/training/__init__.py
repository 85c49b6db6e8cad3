"""Training: torch models, device updates, server optimizers. The only room with opacus."""
