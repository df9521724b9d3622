"""The one training loop, its three contexts, and what a run leaves behind."""
