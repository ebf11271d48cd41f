"""Builds, checks and installs wheels: `nox -s wheels`, and tests of wheels and of CI."""
