import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from tests.host.support import PRELUDE, make_record, run_python
from tunrex_jax_monitor.host.rundir import iter_records, read_manifest, read_records
from tunrex_jax_monitor.host.sinks.base import RunSink, is_durable
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.worker import SinkWorker


def write_run(run_dir, steps, **options):
    sink = JsonlSink(run_dir, **options)
    sink.begin_run({"config": {"names": ["a"]}})
    for step in steps:
        sink.write(make_record(step))
    sink.close()


def steps_of(run_dir):
    return [record.step for record in read_records(run_dir)]


def test_records_come_back_as_they_were_written(tmp_path):
    record = make_record(3, names=("länge\n✓", "</script>"), series={"step": [2, 3], "a/mean": [None, 1.0]})
    sink = JsonlSink(tmp_path / "deep" / "run")
    sink.write(record)
    sink.close()
    assert read_records(tmp_path / "deep" / "run") == [record]


def test_jsonl_sink_is_durable_and_takes_a_manifest(tmp_path):
    sink = JsonlSink(tmp_path)
    assert isinstance(sink, RunSink)
    assert is_durable(sink)


def test_each_record_is_readable_before_the_next(tmp_path):
    sink = JsonlSink(tmp_path)
    for step in range(3):
        sink.write(make_record(step))
        assert steps_of(tmp_path) == list(range(step + 1))
    sink.close()


def test_the_file_is_strict_json_in_ascii(tmp_path):
    write_run(tmp_path, range(3))
    lines = (tmp_path / "records.jsonl").read_bytes()
    assert lines.isascii()
    assert lines.endswith(b"\n")
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [0, 1, 2]


def test_construction_leaves_no_file_behind(tmp_path):
    JsonlSink(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_close_may_come_twice_and_without_a_record(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.close()
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_write_after_close_says_what_to_do(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.close()
    with pytest.raises(ValueError, match=r"write after close, .* Make a new sink"):
        sink.write(make_record())


# Manifest


def test_manifest_tells_what_the_run_is(tmp_path):
    write_run(tmp_path, [])
    manifest = read_manifest(tmp_path)
    assert manifest["config"] == {"names": ["a"]}
    assert manifest["schema"] == 1
    assert manifest["pid"] == os.getpid()
    assert manifest["versions"].keys() >= {"python", "jax", "jaxlib", "numpy"}
    assert manifest.keys() >= {"host", "start_time"}


def test_manifest_says_in_text_what_json_cannot_say(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.begin_run({"config": {"drop": float("inf"), "names": ("a", "ä"), 3: float}, "devices": {"x"}})
    sink.close()
    manifest = read_manifest(tmp_path)
    assert manifest["config"] == {"drop": "inf", "names": ["a", "ä"], "3": "<class 'float'>"}
    assert manifest["devices"] == "{'x'}"


def test_manifest_is_readable_for_whom_the_umask_allows_and_leaves_no_temporary(tmp_path):
    write_run(tmp_path, [])
    records, manifest = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("records.jsonl", "manifest.json"))
    assert records == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "records.jsonl"]


def test_a_record_without_begin_run_still_gets_a_manifest(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.write(make_record())
    sink.close()
    assert "config" not in read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": 2}', b"\xff"])
def test_a_damaged_or_foreign_manifest_is_an_error_with_its_path(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json: got .* allowed"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "field",
    [
        {"start_time": "yesterday"},
        {"start_time": 1e300},
        {"start_time": -1e15},
        {"versions": "v"},
        {"config": 3},
        {"config": {"reward_names": None}},
        {"config": {"reward_names": ["a", 1]}},
        {"resumed": 1},
    ],
)
def test_a_field_of_a_manifest_that_could_not_be_read_later_is_an_error_that_names_it(tmp_path, field):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, **field}))
    name = "reward_names" if field.get("config") != 3 and "config" in field else next(iter(field))
    with pytest.raises(ValueError, match=rf"manifest\.json, {name}: got .* allowed"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("read", [read_manifest, read_records, iter_records])
def test_a_directory_without_a_run_is_an_error_that_says_what_is_missing(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"run_dir: got .* allowed a directory that JsonlSink wrote"):
        read(tmp_path)


# A directory that cannot be used


def test_a_directory_that_holds_a_run_is_refused_and_kept(tmp_path):
    write_run(tmp_path, [1, 2])
    with pytest.raises(FileExistsError, match=r"run_dir: got .* holds a run, allowed .* overwrite=True"):
        JsonlSink(tmp_path)
    assert steps_of(tmp_path) == [1, 2]


def test_a_run_that_began_after_construction_is_refused_at_the_first_write(tmp_path):
    late = JsonlSink(tmp_path)
    write_run(tmp_path, [1, 2])
    with pytest.raises(FileExistsError, match=r"holds a run"):
        late.write(make_record())
    assert steps_of(tmp_path) == [1, 2]


def test_a_run_without_a_record_does_not_block_the_next(tmp_path):
    write_run(tmp_path, [])
    write_run(tmp_path, [5])
    assert steps_of(tmp_path) == [5]


WRITES = """
sink = JsonlSink(sys.argv[1])
try:
    sink.write(record(7))
except FileExistsError as error:
    print(error)
"""


def test_two_writers_of_one_directory_do_not_mix(tmp_path):
    first, second = JsonlSink(tmp_path), JsonlSink(tmp_path)  # both saw it empty
    first.begin_run({})
    with pytest.raises(FileExistsError, match=r"run_dir: got .* another reporter is writing, allowed .* close that"):
        second.begin_run({})
    assert "another reporter is writing" in run_python(WRITES, tmp_path).stdout
    first.write(make_record(0))
    first.close()
    with pytest.raises(FileExistsError, match="holds a run"):
        second.write(make_record(1))
    assert [record.step for record in read_records(tmp_path)] == [0]


def test_a_run_that_is_being_written_is_not_overwritten(tmp_path):
    live, other = JsonlSink(tmp_path), JsonlSink(tmp_path, overwrite=True)
    live.write(make_record(0))
    with pytest.raises(FileExistsError, match="another reporter is writing"):
        other.write(make_record(1))
    assert [record.step for record in read_records(tmp_path)] == [0]
    live.close()


def test_a_forked_child_does_not_keep_the_directory_locked(tmp_path):
    done = run_python(
        """
import os, signal, time
sink = JsonlSink(sys.argv[1])
sink.write(record(0))
reads, writes = os.pipe()
child = os.fork()
if not child:
    os.write(writes, b"x")
    time.sleep(60)
    os._exit(0)
os.read(reads, 1)
sink._file.close()  # as a kill -9 of the parent would
try:
    JsonlSink(sys.argv[1], overwrite=True).write(record(1))
    print("free")
finally:
    os.kill(child, signal.SIGKILL)
""",
        tmp_path,
    )
    assert done.stdout == "free\n", done.stderr


def test_overwrite_removes_the_old_run_only_when_the_new_one_begins(tmp_path):
    write_run(tmp_path, [1, 2])
    (tmp_path / "mine.txt").write_text("kept")
    sink = JsonlSink(tmp_path, overwrite=True)
    assert steps_of(tmp_path) == [1, 2]
    sink.write(make_record(9))
    sink.write(make_record(10))
    sink.close()
    assert steps_of(tmp_path) == [9, 10]
    assert "config" not in read_manifest(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("below", ["", "run"], ids=["a file", "below a file"])
def test_a_path_at_or_below_a_file_fails_at_once(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"run_dir: got .* cannot be written \(.*\), allowed .* Choose another"):
        JsonlSink(tmp_path / "file" / below)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that refuses files, even root's")
def test_a_file_system_that_takes_no_files_fails_at_once():
    with pytest.raises(OSError, match=r"run_dir: got '/proc/tunrex', which cannot be written"):
        JsonlSink("/proc/tunrex")
    with pytest.raises(OSError, match=r"run_dir: got '/proc', which cannot be written"):
        JsonlSink("/proc")


def test_a_directory_without_permission_fails_at_once(tmp_path):
    tmp_path.chmod(0o500)
    nobody = "import os\nif os.geteuid() == 0: os.setuid(65534)\n"
    done = run_python(nobody + "JsonlSink(sys.argv[1])", tmp_path)
    assert f"PermissionError: [Errno 13] run_dir: got '{tmp_path}', which cannot be written" in done.stderr


@pytest.mark.parametrize("run_dir", ["", "gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_or_an_empty_path_is_refused(run_dir):
    with pytest.raises(ValueError, match=r"run_dir: got .* allowed a local or mounted directory"):
        JsonlSink(run_dir)


@pytest.mark.parametrize("run_dir", ["None", "3", "b'run'"])
def test_a_run_dir_of_another_type_is_refused(run_dir):
    done = run_python(f"JsonlSink({run_dir})")
    assert f"TypeError: run_dir: got {run_dir}, allowed a str or a path. Pass" in done.stderr


# Torn and damaged files


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_torn_last_line_is_skipped_and_its_bytes_are_told(tmp_path, caplog, cut):
    write_run(tmp_path, range(3))
    path = tmp_path / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])
    size = len(whole.splitlines()[-1]) - cut
    assert steps_of(tmp_path) == [0, 1]
    assert f"skipped a torn last line of {size} bytes" in caplog.text
    torn = []
    assert len(list(iter_records(tmp_path, on_torn=torn.append))) == 2
    assert torn == [size]


@pytest.mark.parametrize("tail", [b"\xff\xfe", b"\0" * 512, "é".encode()[:1]], ids=["bytes", "zeros", "half a letter"])
def test_any_unfinished_bytes_at_the_end_are_a_torn_line(tmp_path, tail):
    write_run(tmp_path, range(2))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(tail)
    torn = []
    assert len(list(iter_records(tmp_path, on_torn=torn.append))) == 2
    assert torn == [len(tail)]


def test_a_last_line_that_lacks_only_its_line_end_is_a_record(tmp_path):
    write_run(tmp_path, range(3))
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert steps_of(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("line", [b'{"schema":1,"st', b"", b"[]", b'{"schema":1}', b'{"schema":2}', b"\xff", b"null"])
def test_damage_before_the_end_is_an_error_that_names_the_line(tmp_path, line):
    write_run(tmp_path, range(3))
    path = tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2: got .* allowed one record of schema 1\. Restore"):
        read_records(tmp_path)


def test_a_last_line_of_another_schema_is_an_error_and_not_a_torn_line(tmp_path):
    write_run(tmp_path, range(2))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"schema":2}')
    with pytest.raises(ValueError, match=r"line 3: .*got 2, allowed 1"):
        read_records(tmp_path)


DIES_IN_MID_WRITE = """
import os, signal
class Dies:
    def __init__(self, file): self.file = file
    def seek(self, *where): return self.file.seek(*where)
    def fileno(self): return self.file.fileno()
    def write(self, line):
        self.file.write(line[: len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

sink = JsonlSink(sys.argv[1])
for step in range(3):
    sink.write(record(step))
sink._file = Dies(sink._file)
sink.write(record(3))
"""


def test_a_writer_killed_in_mid_write_leaves_whole_records_and_one_torn_line(tmp_path):
    assert run_python(DIES_IN_MID_WRITE, tmp_path).returncode == -signal.SIGKILL
    torn = []
    assert [record.step for record in iter_records(tmp_path, on_torn=torn.append)] == [0, 1, 2]
    assert len(torn) == 1


WRITES_FOR_EVER = """
sink = JsonlSink(sys.argv[1])
for step in range(1_000_000_000):
    sink.write(record(step, series={"step": list(range(50_000))}))
"""


def test_a_writer_killed_at_any_moment_leaves_a_readable_run(tmp_path):
    path = tmp_path / "records.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", PRELUDE + WRITES_FOR_EVER, str(tmp_path)])
    while writer.poll() is None and not (path.exists() and path.stat().st_size > 2_000_000):
        time.sleep(0.001)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    steps = steps_of(tmp_path)
    assert steps == list(range(len(steps)))
    assert len(steps) >= 2


# Disk full

FILLS_THE_DISK = """
import os, resource
sink = JsonlSink(sys.argv[1])
sink.write(record(0))
path = os.path.join(sys.argv[1], "records.jsonl")
size = os.path.getsize(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
try:
    sink.write(record(1))
except OSError as error:
    print(type(error).__name__, os.path.getsize(path) == size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(record(2))
sink.close()
"""


def test_a_write_that_runs_out_of_space_takes_its_part_back(tmp_path, caplog):
    done = run_python(FILLS_THE_DISK, tmp_path)
    assert (done.stdout, done.stderr) == ("OSError True\n", "")
    assert steps_of(tmp_path) == [0, 2]
    assert caplog.messages == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_switches_the_sink_off_and_training_goes_on(tmp_path, caplog):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    worker = SinkWorker(JsonlSink(tmp_path))
    for step in range(3):
        worker.put(make_record(step))
    assert worker.close()
    assert worker.dropped == 3
    assert isinstance(worker.error, OSError)
    assert caplog.text.count("JsonlSink failed") == caplog.text.count("No space left on device\n") == 1


def test_a_record_that_is_no_strict_json_leaves_the_records_before_it(tmp_path, caplog):
    worker = SinkWorker(JsonlSink(tmp_path))
    for value in (0.5, float("nan"), 0.5):
        worker.put(make_record(1, scalars={"a/mean": value}))
    assert worker.close()
    assert worker.dropped == 2
    assert len(read_records(tmp_path)) == 1
    assert "not JSON compliant" in caplog.text
