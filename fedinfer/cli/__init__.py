"""The command line: one module per command; parses, prints, exits. No rule of the domain lives here."""
