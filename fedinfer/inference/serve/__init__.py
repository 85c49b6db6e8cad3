"""Answers over HTTP: the Open Inference Protocol, metrics, energy, the listening socket."""
