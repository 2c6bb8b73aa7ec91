"""The speed of preparing, and what a large corpus costs training."""
