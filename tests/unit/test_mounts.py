"""Volume mounts: how they are read, checked, ordered, and written for a client."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

import pytest

from ee_runner.engines import mounts
from ee_runner.errors import MountRefused
from ee_runner.job import Mount

CWD = Path("/some/dir")
ENVIRON = {"HOME": "/home/me", "WHERE": "/data/x"}


def parse(text: str) -> Mount:
    return mounts.parse(text, cwd=CWD, environ=ENVIRON)


def mount(source: Path, target: str, **changes: object) -> Mount:
    return Mount(source, PurePosixPath(target), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", Mount(Path("/a"), PurePosixPath("/b"))),
        ("/a:/b:ro", Mount(Path("/a"), PurePosixPath("/b"), read_only=True)),
        ("/a:/b:rw", Mount(Path("/a"), PurePosixPath("/b"))),
        ("/a:/b:Z,ro", Mount(Path("/a"), PurePosixPath("/b"), read_only=True, flags=("Z",))),
        ("/a:/b:z, U", Mount(Path("/a"), PurePosixPath("/b"), flags=("z", "U"))),
        ("/a", Mount(Path("/a"), PurePosixPath("/a"))),
        ("/a::ro", Mount(Path("/a"), PurePosixPath("/a"), read_only=True)),
        ("/a/:/b/", Mount(Path("/a"), PurePosixPath("/b"))),
        ("~/dot:/b", Mount(Path("/home/me/dot"), PurePosixPath("/b"))),
        ("~:/b", Mount(Path("/home/me"), PurePosixPath("/b"))),
        ("$WHERE/y:/b", Mount(Path("/data/x/y"), PurePosixPath("/b"))),
        ("${WHERE}y:/b", Mount(Path("/data/xy"), PurePosixPath("/b"))),
        ("$UNSET/y:/b", Mount(Path("/some/dir/$UNSET/y"), PurePosixPath("/b"))),
        ("sub:/b", Mount(Path("/some/dir/sub"), PurePosixPath("/b"))),
        ("../up:/b", Mount(Path("/some/up"), PurePosixPath("/b"))),
        (".:/b", Mount(Path("/some/dir"), PurePosixPath("/b"))),
        ("/with space,comma:/b c", Mount(Path("/with space,comma"), PurePosixPath("/b c"))),
    ],
)
def test_forms(text: str, expected: Mount) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", ":", ":/b", "/a:/b:ro:z", "/a:b", "/a:ro", "/a:/b:sideways", "/a:/b:ro,rw"])
def test_refused_forms_are_quoted(text: str) -> None:
    with pytest.raises(MountRefused) as raised:
        parse(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    "target", ["/", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev", "b"]
)
def test_system_directories_are_not_hidden(tmp_path: Path, target: str) -> None:
    with pytest.raises(MountRefused, match=f"on {target}: "):
        mounts.arrange([mount(tmp_path, target)])


def test_targets_below_system_directories_are_fine(tmp_path: Path) -> None:
    assert mounts.arrange([mount(tmp_path, "/usr/share/ansible"), mount(tmp_path, "/etc/ansible")])


def test_the_root_is_no_source() -> None:
    with pytest.raises(MountRefused, match="root directory"):
        mounts.arrange([mount(Path("/"), "/host")])


def test_a_target_does_not_climb(tmp_path: Path) -> None:
    with pytest.raises(MountRefused, match=r"'\.\.'"):
        mounts.arrange([mount(tmp_path, "/x/../etc")])


def test_missing_and_dangling_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("absent", "link"):
        with pytest.raises(MountRefused, match=f"{tmp_path}/{name}.*No such file"):
            mounts.arrange([mount(tmp_path / name, "/x")])


def test_parents_come_first(tmp_path: Path) -> None:
    arranged = mounts.arrange([mount(tmp_path, target) for target in ("/b/c/d", "/a-b", "/b", "/a/x", "/a", "/b/c")])
    order = [str(one.target) for one in arranged]
    assert all(order.index(parent) < order.index(child) for parent, child in [("/a", "/a/x"), ("/b", "/b/c")])
    assert order.index("/b/c") < order.index("/b/c/d")


def test_repetitions_are_dropped_and_the_later_access_counts(tmp_path: Path) -> None:
    first, second = mount(tmp_path, "/x"), mount(tmp_path, "/x", read_only=True)
    assert mounts.arrange([first, first, second]) == (second,)


def test_two_sources_on_one_target_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "same").symlink_to(tmp_path)
    assert len(mounts.arrange([mount(tmp_path, "/x"), mount(tmp_path / "same", "/x")])) == 1
    with pytest.raises(MountRefused, match=r"Both .* and .*other are to be mounted on /x"):
        mounts.arrange([mount(tmp_path, "/x"), mount(tmp_path / "other", "/x")])


@pytest.mark.parametrize(
    ("source", "target", "changes", "expected"),
    [
        ("/a", "/b", {}, ("--volume", "/a:/b")),
        ("/a b,c", "/d", {"read_only": True}, ("--volume", "/a b,c:/d:ro")),
        ("/a", "/b", {"read_only": True, "flags": ("Z", "U")}, ("--volume", "/a:/b:ro,Z,U")),
        ("/a:b", "/c", {}, ("--mount", "type=bind,source=/a:b,target=/c")),
        ("/a:b", "/c", {"flags": ("Z",)}, ("--mount", "type=bind,source=/a:b,target=/c,relabel=private")),
        ("/a", "/b:c", {"read_only": True}, ("--mount", "type=bind,source=/a,target=/b:c,readonly")),
    ],
)
def test_options(source: str, target: str, changes: dict[str, object], expected: tuple[str, str]) -> None:
    assert mounts.options(mount(Path(source), target, **changes)) == expected


def test_what_a_client_reads_as_csv_is_quoted() -> None:
    source = '/a:"b",c'
    _, text = mounts.options(mount(Path(source), "/d"))
    assert next(csv.reader([text])) == ["type=bind", f"source={source}", "target=/d"]


def test_a_flag_that_can_not_be_said_is_refused() -> None:
    with pytest.raises(MountRefused, match="colon"):
        mounts.options(mount(Path("/a:b"), "/c", flags=("O",)))


def test_relabelling_leaves_a_label_alone() -> None:
    assert mounts.relabelled(mount(Path("/a"), "/a")).flags == ("Z",)
    assert mounts.relabelled(mount(Path("/a"), "/a", flags=("z",))).flags == ("z",)
