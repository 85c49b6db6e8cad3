"""What runs the coordinator: the ServerApp that Flower loads, and templates. No logic."""
