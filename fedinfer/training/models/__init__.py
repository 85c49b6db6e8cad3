"""Model kinds: what they are built of and how a row is prepared for them."""
