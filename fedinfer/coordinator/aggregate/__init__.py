"""One private sum: what is promised, groups, the secure sum itself, and what is released of it."""
