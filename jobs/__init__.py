"""What is run: one file per entrypoint (a verb), one folder per noun that they share."""
