"""Readers of public formats, a file each, and of the text files they share."""
