"""A module that warns and deprecates."""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={})
    module.warn("a module warning")
    module.deprecate("a module deprecation", version="9.9", collection_name="ansible.builtin")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
