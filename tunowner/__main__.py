"""`python -m tunowner` is the command `tunowner`."""

from tunowner.control.cli import main

if __name__ == "__main__":
    main()
