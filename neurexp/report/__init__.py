"""What a run says, and its run folder. Knows no experiment and no MLflow."""
