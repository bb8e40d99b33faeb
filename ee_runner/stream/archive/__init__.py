"""Directories as archives, written and read as they stream: one zip format for every form of the wire."""
