"""From a run folder to MLflow. Knows no experiment."""
