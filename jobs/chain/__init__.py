"""The chain of steps that jobs.pipeline runs: the config of each, and what has to be ended after it."""
