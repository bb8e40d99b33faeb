"""The fact cache: what a run left there, and what a program puts there."""

from pathlib import Path

from program import answer, private_data_dir

import ansible_runner

PLAYS = """\
- hosts: h1
  gather_facts: false
  tasks:
    - set_fact:
        figure: 3
        cacheable: true
"""
place = private_data_dir("pdd", plays=PLAYS)
r = ansible_runner.run(private_data_dir=place, playbook="site.yml", ident="one", fact_cache="mine", quiet=True)
found = r.get_fact_cache("h1")
nobody = r.get_fact_cache("nobody")
r.set_fact_cache("new", {"deep": [1, {"a": None}]})
new = r.get_fact_cache("new")
r.set_fact_cache("new", {"other": "ä"})
memory = ansible_runner.interface.init_runner(
    private_data_dir=place, playbook="site.yml", fact_cache_type="memory", quiet=True
)
answer(
    place=r.config.fact_cache,
    kind=r.config.fact_cache_type,
    files=len(list(Path(r.config.fact_cache).glob("*h1"))),
    found=found,
    nobody=nobody,
    new=new,
    changed=r.get_fact_cache("new"),
    memory=memory.config.fact_cache_type,
)
