"""`python -m neurexp.rerun` runs a finished run again and compares the two."""

from neurexp.runs.rerun import main

if __name__ == "__main__":
    main()
