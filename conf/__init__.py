"""Everything that can be said: typed schema, one primary yaml per entrypoint, one folder per group."""
