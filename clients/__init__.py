"""What puts a device in the field: the ClientApp that Flower loads, and templates. No logic."""
