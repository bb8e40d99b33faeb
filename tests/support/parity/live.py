"""A job in the background, followed while it runs."""

import time

from program import LASTING, answer, over, private_data_dir

import ansible_runner

place = private_data_dir("pdd", plays=LASTING)
thread, r = ansible_runner.run_async(private_data_dir=place, playbook="site.yml", quiet=True)
early = [type(thread).__name__, thread.daemon, r.status in ("unstarted", "starting", "running"), r.rc]
followed = []
during = None
while r.status in ("unstarted", "starting"):  # before that ansible-runner's events may end at once
    time.sleep(0.01)
try:
    for event in r.events:
        followed.append([event["event"], event["event_data"].get("task")])
        if event["event"] == "runner_on_start" and event["event_data"]["task"] == "last":
            during = [r.status, r.rc, "hello" in r.stdout.read(), thread.is_alive()]
            over(place)
finally:
    over(place)
thread.join()
answer(
    early=early,
    during=during,
    followed=followed,
    after=[r.status, r.rc, thread.is_alive()],
    again=[event["event"] for event in r.events] == [name for name, _ in followed],
    of_host=[event["event"] for event in r.host_events("h1")],
    stats=r.stats,
)
