"""The recipes that ship with the toolkit, installed as ``nmt_recipes``: data, no code."""
