"""Benchmarks: the runner beside bare Ansible and beside ansible-runner (see docs/performance.md)."""
