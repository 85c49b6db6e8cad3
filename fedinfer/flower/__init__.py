"""Flower: messages to dataclasses and back; the two apps. Handlers only translate."""
