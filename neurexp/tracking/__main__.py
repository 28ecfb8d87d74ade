"""`python -m neurexp.tracking RUN_FOLDER` logs a finished run into MLflow."""

from neurexp.tracking.tracker import main

if __name__ == "__main__":
    main()
