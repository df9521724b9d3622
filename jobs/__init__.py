"""What is run: one file per entrypoint (a verb), one folder per noun that they share."""

import cluster as cluster  # first: what Ray and MLflow read from the environment
