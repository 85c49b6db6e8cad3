"""Answers over HTTP: the Open Inference Protocol, who may ask and how much, metrics, energy, the listening socket."""
