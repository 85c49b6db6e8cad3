"""How a signed model reaches a slot: the TUF channel, self-check, A/B slots, the updater."""
