"""Cancel and the time limits: the statuses, the result, and what is on disk."""

import threading

from program import LASTING, answer, disk, over, private_data_dir

import ansible_runner


class Job:
    """A job that lasts until it is stopped; with an answer its cancel callback gives it once the last task runs."""

    def __init__(self, name, answer=None):
        self.place = private_data_dir(name, plays=LASTING)
        self.told = []
        self.reached = threading.Event()
        self.answer = answer

    def event_handler(self, event):
        if event["event"] == "runner_on_start" and event["event_data"]["task"] == "last":
            self.reached.set()
        return True

    def cancel_callback(self):
        return self.answer if self.reached.is_set() else None

    def status_handler(self, data, runner_config):
        self.told.append([data["status"], sorted(data)[-2:], type(runner_config).__name__])

    def artifacts_handler(self, directory):
        self.told.append(["artifacts", directory])

    def finished_callback(self, runner):
        self.told.append(["finished", runner.status, runner.rc])

    def options(self, **settings):
        names = ("event_handler", "cancel_callback", "status_handler", "artifacts_handler", "finished_callback")
        return {
            "private_data_dir": self.place,
            "playbook": "site.yml",
            "ident": "one",
            "quiet": True,
            "settings": {"pexpect_timeout": 1, **settings},
            **{name: getattr(self, name) for name in names},
        }

    def observed(self, r):
        over(self.place)
        return {
            "told": self.told,
            "result": [r.status, r.rc, bool(r.canceled), r.timed_out, r.errored],
            "disk": disk(f"{self.place}/artifacts/one"),
            "stats": r.stats,
        }


job = Job("canceled", answer=True)
r = ansible_runner.run(**job.options())
canceled = [job.observed(r), [event["event"] for event in r.events]]

job = Job("async", answer="please")
thread, r = ansible_runner.run_async(**job.options())
thread.join()
canceled_async = [job.observed(r), [event["event"] for event in r.events], thread.is_alive()]

job = Job("timeout")
timeout = job.observed(ansible_runner.run(**job.options(), timeout=2))

job = Job("idle")
idle = job.observed(ansible_runner.run(**job.options(idle_timeout=2)))
answer(canceled=canceled, canceled_async=canceled_async, timeout=timeout, idle=idle)
