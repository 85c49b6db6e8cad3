"""Signed versions: TUF keys and metadata, the repository, patches between versions."""
