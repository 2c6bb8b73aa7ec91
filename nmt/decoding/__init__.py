"""From a trained model to translations: search, forced scores, and text in, text out."""
