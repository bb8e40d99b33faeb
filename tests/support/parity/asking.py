"""What Ansible knows: plugins, inventories, configuration, roles."""

import time

from program import answer, private_data_dir

import ansible_runner

place = private_data_dir("pdd", files={"ansible.cfg": "[defaults]\nforks = 3\n"})
hosts = f"{place}/inventory"
docs, docs_err = ansible_runner.get_plugin_docs(["debug", "ping"], response_format="json", quiet=True)
listed, listed_err = ansible_runner.get_plugin_list(plugin_type="connection", response_format="json", quiet=True)
inventory, inventory_err = ansible_runner.get_inventory("list", [hosts], response_format="json", quiet=True)
graph, _ = ansible_runner.get_inventory("graph", [hosts], quiet=True)
config, config_err = ansible_runner.get_ansible_config(
    "dump", config_file=f"{place}/ansible.cfg", only_changed=True, quiet=True
)
roles, roles_err = ansible_runner.get_role_list(quiet=True)
thread, r = ansible_runner.get_plugin_docs_async(["ping"], response_format="json", quiet=True)
while r.status not in ("canceled", "successful", "timeout", "failed"):
    time.sleep(0.01)
thread.join()
answer(
    docs=[type(docs).__name__, sorted(docs), sorted(docs["ping"]), docs_err],
    listed=[type(listed).__name__, "ssh" in str(listed), listed_err],
    inventory=[inventory, inventory_err],
    graph=graph,
    config=[type(config).__name__, "DEFAULT_FORKS" in config, config_err],
    roles=[roles, roles_err],
    docs_async=[r.status, r.rc, "ping" in r.stdout.read(), r.stderr.read()],
)
