"""The model of a device as a service: who may ask, how much at once, and whether the model is well."""
