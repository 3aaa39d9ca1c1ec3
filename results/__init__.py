"""What was measured: a store on disk that anything can read, and the published numbers beside it."""
