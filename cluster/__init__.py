"""The ground that jobs and serving share: Ray, storage, tracking, registry, bundle, record schemas."""
