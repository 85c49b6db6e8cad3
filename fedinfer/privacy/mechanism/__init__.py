"""How noise is added: clipping, rotation, encoding, integer noise, correlated noise."""
