"""`python -m neurexp.run` does the same as `python -m neurexp`."""

from neurexp.cli import main

if __name__ == "__main__":
    main()
