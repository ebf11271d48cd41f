"""The functions and objects that ask a policy engine, and the names of their policies."""
