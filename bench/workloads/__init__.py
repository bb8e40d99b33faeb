"""Every workload, in the order of the table."""

from __future__ import annotations

from bench.workloads import concurrency, containers, events, following, latency, output, reading, remote, starting

_MODULES = (starting, containers, events, output, reading, latency, following, remote, concurrency)
WORKLOADS = {workload.name: workload for module in _MODULES for workload in module.WORKLOADS}
