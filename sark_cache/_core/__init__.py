"""Shared machinery of the package. Private: nothing here is part of the public interface."""
