"""What answers: the Ray Serve application, variants and traffic, the prediction and feedback log."""
