"""Fuzzing: what hypothesis makes of our files, and of our functions in any order."""
