"""What was measured: a store on disk that anything can read; and what was published."""
