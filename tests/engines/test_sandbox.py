"""What bwrap hides and shows from the command line (seed, sections 1.8.1 and 4.6)."""

from __future__ import annotations

import pytest

from tests.engines.conftest import ENGINES
from tests.engines.place import Place
from tests.engines.projects import INVENTORY

LOOKS = """\
- hosts: one
  gather_facts: false
  tasks:
    - shell: ls -A {{ item }} 2>/dev/null || echo none
      loop: "{{ looked_at }}"
    - shell: touch {{ item }}/new 2>/dev/null && echo written || echo refused
      loop: "{{ written_to }}"
"""

pytestmark = pytest.mark.parametrize("place", [name for name in ENGINES if name == "bwrap"], indirect=True)


def test_paths_are_hidden_shown_and_shown_read_only_and_nothing_temporary_stays(place: Place) -> None:
    for name in ("shown", "read-only", "unseen", "staging", "pdd/hidden"):
        place.write({f"{name}/file": "x"})
    where = {name: str(place.root / name) for name in ("shown", "read-only", "unseen", "pdd/hidden")}
    directory = place.write(
        {
            "project/site.yml": LOOKS,
            "inventory/hosts": INVENTORY,
            "env/extravars": str(
                {
                    "looked_at": [*where.values(), "/tmp"],
                    "written_to": [where["shown"], where["read-only"], "/tmp", "/usr", "~"],
                }
            ),
        },
        under="pdd",
    )
    result = place.run(
        directory,
        *("-p", "site.yml", "--process-isolation-hide-paths", where["pdd/hidden"]),
        *("--process-isolation-show-paths", where["shown"], "--process-isolation-ro-paths", where["read-only"]),
        *("--process-isolation-path", str(place.root / "staging")),
    )
    assert result.rc == 0, result
    looked, written = (event["event_data"]["res"]["results"] for event in result.of("runner_on_ok"))
    seen = [answer["stdout"] for answer in looked]
    assert seen[:4] == ["file", "file", "none", ""]
    assert place.root.name in seen[4]
    assert [answer["stdout"] for answer in written] == ["written", "refused", "written", "refused", "written"]
    assert (place.root / "shown/new").exists()
    assert [path.name for path in (place.root / "staging").iterdir()] == ["file"]
    assert (directory / "hidden/file").exists()


def test_a_staging_path_that_is_not_there_is_named(place: Place) -> None:
    directory = place.write({"project/site.yml": LOOKS, "inventory/hosts": INVENTORY}, under="pdd")
    result = place.run(directory, "-p", "site.yml", "--process-isolation-path", str(place.root / "gone"))
    assert result.rc == 77, result
    assert str(place.root / "gone") in result.stderr
