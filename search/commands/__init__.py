"""The commands, one function each: a function parses nothing, calls one module of `search`, and prints."""
