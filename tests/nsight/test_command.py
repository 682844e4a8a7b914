"""Which nsys is used, what it is asked, and what is said where it cannot do it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nsight.installation import install
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight import command
from vlmtrace.nsight.command import Nsys, ProfileOptions, export_sqlite, find, import_report, profile_command


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Nsight Systems; what lies in ``opt`` and ``usr`` here is where it is usually installed."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path / "none"))
    monkeypatch.setattr(command, "USUAL_PLACES", tuple(f"{tmp_path}{place}" for place in command.USUAL_PLACES))
    return tmp_path


def test_without_any_nsys_the_line_says_where_to_get_one(bare: Path) -> None:
    with pytest.raises(VlmtraceError) as caught:
        find()
    assert str(caught.value) == (
        "there is no nsys on PATH, nor where it is usually installed: install Nsight Systems from "
        "https://developer.nvidia.com/nsight-systems, or name it: --nsys-path FILE"
    )


def test_the_one_on_path_comes_first_and_the_newest_of_a_usual_place_next(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("2024.6.2", "2025.3.1", "2025.11.1"):
        install(bare / "opt/nvidia/nsight-systems" / version, version=version)
    install(bare / "usr/local/cuda-13.0", version="2025.12.1")

    assert find() == Nsys(bare / "opt/nvidia/nsight-systems/2025.11.1/bin/nsys", (2025, 11, 1))
    on_path = install(bare / "mine", version="2023.1.2")
    monkeypatch.setenv("PATH", os.fspath(on_path.parent))
    assert find() == Nsys(on_path, (2023, 1, 2))


@pytest.mark.parametrize(
    "place",
    [
        "opt/nvidia/nsight-systems/2025.3.1/bin/nsys",
        "opt/nvidia/nsight-systems-cli/2025.3.1/bin/nsys",
        "usr/local/cuda-13.0/bin/nsys",
        "opt/nvidia/nsight-compute/2025.3.0/host/target-linux-x64/nsys",
    ],
)
def test_every_usual_place_is_looked_at(bare: Path, place: str) -> None:
    install(bare / place.rpartition("/")[0].rpartition("/")[0])
    assert find().path == bare / place


def test_a_too_old_one_on_path_gives_way_to_a_newer_one(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = install(bare / "old", version="2021.5.2")
    monkeypatch.setenv("PATH", os.fspath(old.parent))

    with pytest.raises(VlmtraceError) as caught:
        find()
    assert str(caught.value) == (
        f"'{old}' is Nsight Systems 2021.5.2, and --nsys needs 2022.1 or newer: install Nsight Systems from "
        "https://developer.nvidia.com/nsight-systems, or name a newer one: --nsys-path FILE"
    )
    new = install(bare / "opt/nvidia/nsight-systems/2022.1.3", version="2022.1.3")
    assert find().path == new
    with pytest.raises(VlmtraceError, match=r"2021\.5\.2"):
        find(old)


def test_an_nsys_is_named_by_its_file_or_by_a_folder_of_its_installation(bare: Path) -> None:
    nsys = install(bare / "some where")
    real = nsys.parent.parent / "target-linux-x64"

    assert find(nsys).path == find(nsys.parent).path == find(bare / "some where").path == nsys
    assert find(real).path == real / "nsys"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nothing", r"there is no '.*nothing': give --nsys-path the file nsys, or the folder that holds it"),
        ("empty", r"there is no nsys in '.*empty': give --nsys-path the file nsys"),
        ("text", r"'.*text' is no program: give --nsys-path the file nsys"),
        (
            "true",
            r"'.*true --version' tells no version of Nsight Systems \(true \(GNU coreutils\) .*\): install Nsight",
        ),
        ("broken", r"'.*broken --version' tells no version of Nsight Systems \(No such file or directory\)"),
    ],
)
def test_what_is_no_nsys_is_refused(bare: Path, given: str, says: str) -> None:
    (bare / "empty").mkdir()
    (bare / "text").write_text("no program")
    (bare / "true").symlink_to("/bin/true")
    (bare / "broken").write_text("#!/nowhere/sh\n")
    (bare / "broken").chmod(0o755)

    with pytest.raises(VlmtraceError, match=says):
        find(bare / given)


def test_the_command_records_the_timed_generations_and_little_else() -> None:
    report = Path("out/qwen2.5-vl-001.nsys-rep")

    assert profile_command("/opt/nsys", ProfileOptions(report), ["python", "x.py"]) == [
        "/opt/nsys", "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--capture-range=nvtx",
        "--nvtx-capture=recording@vlmtrace", "--capture-range-end=stop", "--cuda-graph-trace=graph",
        "--output=out/qwen2.5-vl-001", "python", "x.py",
    ]  # fmt: skip
    made = profile_command("nsys", ProfileOptions(Path("100%p.nsys-rep"), force=True, forks=True), ["a"])
    assert made[-4:] == ["--trace-fork-before-exec=true", "--force-overwrite=true", "--output=100%%p", "a"]


def test_options_of_the_users_own_come_last_and_take_the_place_of_ours() -> None:
    extra = ("--cuda-graph-trace=node", "-t", "cuda,nvtx,osrt", "--kill=none")
    made = profile_command("nsys", ProfileOptions(Path("x.nsys-rep"), extra=extra), ["a", "--trace=b"])

    assert made == [
        "nsys", "profile", "--sample=none", "--cpuctxsw=none", "--capture-range=nvtx",
        "--nvtx-capture=recording@vlmtrace", "--capture-range-end=stop", "--output=x",
        "--cuda-graph-trace=node", "-t", "cuda,nvtx,osrt", "--kill=none", "a", "--trace=b",
    ]  # fmt: skip


def test_a_report_is_made_of_what_nsys_left(tmp_path: Path) -> None:
    raw, report = tmp_path / "a.qdstrm", tmp_path / "a.nsys-rep"
    raw.write_text("recorded")
    report.write_text("of another day")

    import_report(raw, report, find(install(tmp_path / "nsys")))
    assert (report.read_text(), raw.exists()) == ("recorded", False)


def test_inside_nsight_compute_the_importer_lies_in_another_folder(tmp_path: Path) -> None:
    nsys = find(install(tmp_path / "host"))
    (tmp_path / "host/host-linux-x64").rename(tmp_path / "host/linux-desktop-glibc_2_11_3-x64")
    assert nsys.importer == tmp_path / "host/linux-desktop-glibc_2_11_3-x64/QdstrmImporter"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            {"importer": "QdstrmImporter: error while loading shared libraries: libdw.so.1: cannot open shared object "
             "file: No such file or directory"},
            r"its QdstrmImporter failed \(.*\): install libdw\.so\.1 \(Debian, Ubuntu: libdw1 and libelf1\), then run: "
            r".*/QdstrmImporter -i '.*/a b\.qdstrm' -o '.*/a b\.nsys-rep'",
        ),
        ({"importer": "File is damaged"}, r"failed \(File is damaged\): run it yourself: .*QdstrmImporter -i"),
        ({"has_importer": False}, r"beside it lies no QdstrmImporter: where Nsight Systems 2025\.3\.1 is whole, "
         r"run: QdstrmImporter -i '.*a b\.qdstrm'"),
    ],
    ids=["library missing", "failing", "missing"],
)  # fmt: skip
def test_what_nsys_left_is_kept_where_no_report_can_be_made(tmp_path: Path, made: dict, says: str) -> None:
    raw = tmp_path / "a b.qdstrm"
    raw.write_text("recorded")

    with pytest.raises(VlmtraceError, match=says) as caught:
        import_report(raw, tmp_path / "a b.nsys-rep", find(install(tmp_path / "nsys", **made)))
    assert "\n" not in str(caught.value)
    assert raw.read_text() == "recorded"


def test_a_report_is_exported_once(tmp_path: Path) -> None:
    nsys, report = find(install(tmp_path / "nsys")), tmp_path / "a.nsys-rep"
    report.write_text("report")

    assert export_sqlite(report, nsys) == tmp_path / "a.sqlite"
    assert (tmp_path / "a.sqlite").read_text() == "exported report"
    (tmp_path / "a.sqlite").write_text("kept")
    assert export_sqlite(report, None).read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nsys-rep", "a.sqlite", "nsys"]


def test_a_report_that_cannot_be_exported_is_said_with_what_to_do(tmp_path: Path) -> None:
    report = tmp_path / "a.nsys-rep"
    report.write_text("report")
    by_hand = rf"export it yourself: nsys export --type=sqlite {report}"

    with pytest.raises(VlmtraceError, match=rf"can be read by nsys only, and there is none here: {by_hand}"):
        export_sqlite(report, None)
    failing = find(install(tmp_path / "nsys", leaves="failure"))
    with pytest.raises(VlmtraceError, match=rf"cannot export '{report}' \(no report that can be read\): {by_hand}"):
        export_sqlite(report, failing)
    (tmp_path / "a.sqlite").write_text("old")
    os.utime(tmp_path / "a.sqlite", (1, 1))
    with pytest.raises(VlmtraceError, match=r"a\.sqlite' is older than '.*a\.nsys-rep': remove '"):
        export_sqlite(report, failing)
    assert (tmp_path / "a.sqlite").read_text() == "old"
