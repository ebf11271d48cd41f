"""The policy caches, one for each place where decisions are kept."""
