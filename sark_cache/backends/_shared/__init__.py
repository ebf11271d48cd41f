"""Machinery that the backends share. Private."""
