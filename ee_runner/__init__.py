"""Run Ansible in execution environments."""

__version__ = "0.1.0"
