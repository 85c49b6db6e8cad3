"""Simulation: a Flower Grid in this process, and what runs scenarios on it."""
