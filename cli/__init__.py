"""The command line, installed as ``nmt_cli``: it parses, calls one library function and prints."""
