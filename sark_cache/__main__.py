"""`python -m sark_cache`: the command `sark-cache`."""

from sark_cache.cli import main

if __name__ == "__main__":
    main()
