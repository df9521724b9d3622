"""What answers: the Ray Serve application, variants and traffic, the prediction and feedback log."""

import cluster as cluster  # first: what Ray and MLflow read from the environment
