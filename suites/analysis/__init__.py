"""What trained networks use, asked directly: an analysis measures image by image and files what it finds (`run`)."""
