"""`python -m neurexp.compare` compares finished runs."""

from neurexp.runs.compare import main

if __name__ == "__main__":
    main()
