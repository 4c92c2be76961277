"""What is left of a search on disk."""
