"""The person at the terminal: progress, warnings, signals and environment variables. Knows no experiment."""
