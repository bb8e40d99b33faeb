"""Configurations of jobs, one class for each kind of command."""
