"""Every method of docker-py's container, exec and system API, called and checked. The list comes
from the library itself: a method that is not called here fails."""
import inspect
import io
import tarfile
import threading

import docker
from docker.api.container import ContainerApiMixin
from docker.api.daemon import DaemonApiMixin
from docker.api.exec_api import ExecApiMixin

called = set()


class Recorder:
    def __init__(self, api):
        self.api = api

    def __getattr__(self, name):
        called.add(name)
        return getattr(self.api, name)


api = Recorder(docker.from_env(timeout=30).api)

# System.
assert api.ping()
assert api.version()["ApiVersion"] == "1.51"
assert api.info()["OSType"] == "linux"
assert api.df()["Images"][0]["RepoTags"] == ["busybox:latest"]
try:
    api.login("nobody", "wrong", registry="127.0.0.1:1")
    raise SystemExit("no error")
except docker.errors.APIError as error:
    assert error.status_code >= 400, error
events = api.events(decode=True, filters={"type": "container", "event": "create"})
told = []
listener = threading.Thread(target=lambda: told.append(next(events)))
listener.start()

# Making.
host = api.create_host_config(
    port_bindings={80: ("127.0.0.1", None)}, mem_limit="64m", binds=["vol:/data"],
)
network = api.create_networking_config({"bridge": api.create_endpoint_config()})
config = api.create_container_config(
    "busybox", ["sh", "-c", "echo out; echo err >&2; cat; exec sleep 1000"], stdin_open=True,
    ports=[80], labels={"k": "v"}, host_config=host, networking_config=network,
)
box = api.create_container_from_config(config, "box")["Id"]
listener.join(10)
assert told[0]["Actor"]["ID"] == box, told
events.close()
other = api.create_container("busybox", ["true"], name="other", labels=["x"])["Id"]

# Running.
attached = api.attach_socket(box, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})._sock
api.start(box)
received = b""
while b"err\n" not in received or b"out\n" not in received:
    received += attached.recv(100)
attached.sendall(b"through\n")
while b"through\n" not in received:
    received += attached.recv(100)
attached.close()
# Written to the log right after it was sent.
while (replayed := api.attach(box, stdout=True, stderr=False, logs=True, stream=False)).count(b"\n") < 2:
    pass
assert replayed == b"out\nthrough\n", replayed
assert api.logs(box, stdout=True, stderr=False, tail=1) == b"through\n"
dated = api.logs(box, timestamps=True, since=1, until=2**32)
assert b"Z out\n" in dated, dated
inspected = api.inspect_container(box)
assert inspected["State"]["Running"] and inspected["Config"]["Labels"]["k"] == "v", inspected
assert api.port(box, 80)[0]["HostIp"] == "127.0.0.1"
assert api.top(box)["Titles"][:2] == ["UID", "PID"]
while "sleep" not in [row[1] for row in api.top(box, "-o pid,comm")["Processes"]]:
    pass
usage = api.stats(box, stream=False)
assert usage["memory_stats"]["limit"] == 64 << 20 and usage["precpu_stats"]["online_cpus"], usage
assert "precpu_stats" in api.stats(box, stream=False, one_shot=True)
stream = api.stats(box, decode=True)
assert next(stream)["name"] == "/box" and next(stream)["preread"] > "0001-01-02"
stream.close()
assert api.update_container(box, mem_limit="128m", memswap_limit="256m")["Warnings"] is None
assert api.inspect_container(box)["HostConfig"]["Memory"] == 128 << 20
api.pause(box)
assert api.inspect_container(box)["State"]["Paused"]
api.unpause(box)
api.rename(box, "renamed")
assert [c["Id"] for c in api.containers(filters={"name": "renamed", "label": "k=v"})] == [box]
everything = api.containers(all=True, size=True, limit=5, filters={"ancestor": "busybox"})
assert {c["Id"] for c in everything} == {box, other}, everything
for name, value, expected in [
    ("before", "renamed", set()), ("since", "renamed", {other}), ("exited", "0", set()),
    ("expose", "80/tcp", {box}), ("publish", "80", {box}), ("health", "none", {box, other}),
    ("id", box[:20], {box}), ("is-task", "false", {box, other}), ("network", "bridge", {box, other}),
    ("status", "running", {box}), ("status", "created", {other}), ("volume", "vol", {box}),
    ("volume", "/data", {box}), ("label", "x", {other}), ("name", "^/?ren.*d$", {box}),
]:
    found = {c["Id"] for c in api.containers(all=True, filters={name: value})}
    assert found == expected, (name, value, found)

# Files.
files = io.BytesIO()
with tarfile.open(fileobj=files, mode="w") as tar:
    info = tarfile.TarInfo("dir/file")
    info.size = 5
    tar.addfile(info, io.BytesIO(b"hello"))
assert api.put_archive(box, "/tmp", files.getvalue())
chunks, stat = api.get_archive(box, "/tmp/dir/file")
assert (stat["name"], stat["size"], stat["linkTarget"]) == ("file", 5, ""), stat
with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
    assert tar.extractfile("file").read() == b"hello"
changes = {c["Path"]: c["Kind"] for c in api.diff(box)}
assert changes["/tmp/dir/file"] == 1 and changes["/tmp"] == 0, changes
assert b"tmp/dir/file" in b"".join(api.export(box))

# Execs.
command = api.exec_create(box, ["sh", "-c", "stty size; exit 3"], tty=True, stdin=True)["Id"]
assert api.exec_inspect(command)["Running"] is False
running = api.exec_create(box, ["sleep", "1000"], tty=True)["Id"]
api.exec_start(running, detach=True)
api.exec_resize(running, height=20, width=60)
assert api.exec_inspect(running)["Running"]
assert b" " in api.exec_start(command, tty=True)
assert api.exec_inspect(command)["ExitCode"] == 3
terminal = api.create_container("busybox", ["cat"], tty=True, stdin_open=True)["Id"]
api.start(terminal)
api.resize(terminal, 40, 100)
api.kill(terminal, signal="SIGKILL")
assert api.wait(terminal)["StatusCode"] == 137
api.remove_container(terminal)

# Ending.
api.restart(box, timeout=0)
api.stop(box, timeout=0)
for condition in [None, "not-running"]:
    assert api.wait(box, condition=condition)["StatusCode"] == 137
image = api.commit(box, repository="made", tag="1", changes=["ENV A=1"])["Id"]
api.remove_image(image)
assert api.stats(box, stream=False)["read"] == "0001-01-01T00:00:00Z"
assert api.prune_containers(filters={"label": ["nonesuch"]})["ContainersDeleted"] is None
assert api.prune_containers(filters={"label!": ["k"]})["ContainersDeleted"] == [other]
api.remove_container(box, v=True, force=True)

missing = {
    name
    for mixin in (ContainerApiMixin, ExecApiMixin, DaemonApiMixin)
    for name, _ in inspect.getmembers(mixin, inspect.isfunction)
    if not name.startswith("_")
} - called
assert not missing, f"never called: {sorted(missing)}"
