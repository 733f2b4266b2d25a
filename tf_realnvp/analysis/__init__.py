"""What is done with a model."""
