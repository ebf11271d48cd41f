"""The choice of the backend that serves a user, and the caches of this process."""
