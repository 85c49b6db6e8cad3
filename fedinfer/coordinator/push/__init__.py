"""From a released model to the devices: publish, roll out in waves, deliver, evaluate canaries, withdraw."""
