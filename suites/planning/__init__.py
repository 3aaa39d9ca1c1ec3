"""What a suite costs and can detect, before it runs."""
