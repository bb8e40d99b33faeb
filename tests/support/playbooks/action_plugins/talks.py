"""An action that says something through every Display method."""

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        display.display("said by display")
        display.v("said by v")
        display.vvv("said by vvv", host="alpha")
        display.warning("said by warning")
        display.system_warning("said by system_warning")
        display.error("said by error")
        display.deprecated("said by deprecated", version="9.9", collection_name="ansible.builtin")
        display.debug("said by debug")
        display.banner("said by banner")
        result.update(changed=False)
        return result
