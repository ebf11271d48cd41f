"""`sark-cache flags`: shows and changes rollout percentages."""
