"""`python -m tunewright`, as torchrun starts it: the command line."""

from tunewright.cli import main

if __name__ == "__main__":
    main()
