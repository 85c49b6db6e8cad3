"""One training round: who takes part, how the release is combined, what the server's optimizer does with it."""
