"""The one loop and its readings of a program: execute, observe."""
