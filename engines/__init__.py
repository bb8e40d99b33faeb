"""Engines: where Ansible runs. `registry` finds them, `base` is what each of them implements."""

if __name__ != "ee_runner.engines":
    raise ImportError(f"Import ee_runner.engines instead of {__name__}: under two names its classes would exist twice.")
