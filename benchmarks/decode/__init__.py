"""The speed of translating."""
