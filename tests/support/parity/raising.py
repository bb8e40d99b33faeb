"""Callbacks that raise: what the caller gets, and what the artifacts say."""

import threading

from program import answer, disk, private_data_dir

import ansible_runner

threading.excepthook = lambda _: None


class Sorry(Exception):
    pass


def sorry(*_, **__):
    raise Sorry("no more")


def sorry_when(status):
    def handler(data, runner_config):
        assert runner_config.ident == "one"
        if data["status"] == status:
            raise Sorry("no more")

    return handler


def observed(**callbacks):
    place = private_data_dir(f"raising-{len(seen)}")
    finished = []
    callbacks.setdefault("finished_callback", lambda runner: finished.append(runner.status))
    try:
        r = ansible_runner.run(private_data_dir=place, playbook="site.yml", ident="one", quiet=True, **callbacks)
        raised = [r.status]
    except Exception as error:
        raised = [
            type(error).__name__,
            type(error.__cause__).__name__,
            isinstance(error, ansible_runner.AnsibleRunnerException),
        ]
    return {"raised": raised, "disk": disk(f"{place}/artifacts/one"), "finished": finished}


seen = {}
seen["event_handler"] = observed(event_handler=sorry)
seen["starting"] = observed(status_handler=sorry_when("starting"))
seen["running"] = observed(status_handler=sorry_when("running"))
seen["successful"] = observed(status_handler=sorry_when("successful"))
seen["cancel_callback"] = observed(cancel_callback=sorry)
seen["artifacts_handler"] = observed(artifacts_handler=sorry)
seen["finished_callback"] = observed(finished_callback=sorry)
seen["wrong signature"] = observed(status_handler=lambda _: None)
thread, r = ansible_runner.run_async(
    private_data_dir=private_data_dir("async"), playbook="site.yml", quiet=True, finished_callback=sorry
)
thread.join()
seen["async"] = [thread.is_alive(), r.status, r.rc]
answer(**seen)
