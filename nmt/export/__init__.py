"""A trained model for other engines: written, and proved to translate as the run does."""
