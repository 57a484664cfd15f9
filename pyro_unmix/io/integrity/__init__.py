"""What notices short and damaged files before a library takes memory for them, or runs in a circle."""
