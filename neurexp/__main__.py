"""`python -m neurexp`."""

from neurexp.run import main

if __name__ == "__main__":
    main()
