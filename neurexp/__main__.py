"""`python -m neurexp` runs an experiment."""

from neurexp.cli import main

if __name__ == "__main__":
    main()
