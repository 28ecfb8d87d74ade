"""`python -m neurexp`."""

from neurexp.cli import main

if __name__ == "__main__":
    main()
