"""One verb a file. A verb is a function named after it, or a Typer app where it has verbs of its own."""
