"""A released model on its way: publish, roll out in waves, deliver, evaluate canaries, withdraw."""
