"""One session of docker-py, checked as it goes."""
import socket
import threading
import time

import docker

client = docker.from_env(timeout=30)
assert client.ping()
assert client.version()["ApiVersion"] == "1.51"
assert client.info()["OSType"] == "linux"

image = client.images.get("busybox")
assert image.tags == ["busybox:latest"], image.tags
assert image.history()[0]["Tags"] == ["busybox:latest"]

assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
try:
    client.containers.run("busybox", "sh -c 'echo bad >&2; exit 4'", remove=True)
    raise SystemExit("no error")
except docker.errors.ContainerError as error:
    assert (error.exit_status, error.stderr) == (4, b"bad\n"), error
try:
    client.containers.run("busybox", "nonesuch", remove=True)
    raise SystemExit("no error")
except docker.errors.APIError as error:
    assert "executable file not found in $PATH" in error.explanation, error

ticker = client.containers.run(
    "busybox", "sh -c 'while true; do echo tick; sleep 0.1; done'",
    detach=True, name="py", labels={"a": "b"}, environment={"X": "1"},
    ports={"80/tcp": ("127.0.0.1", None)}, mem_limit="64m", stop_signal="SIGKILL",
)
ticker.reload()
assert ticker.status == "running", ticker.status
assert ticker.ports["80/tcp"][0]["HostIp"] == "127.0.0.1", ticker.ports
assert ticker.attrs["HostConfig"]["Memory"] == 64 << 20

result = ticker.exec_run("sh -c 'echo $X; echo e >&2; exit 5'", demux=True)
assert (result.exit_code, result.output) == (5, (b"1\n", b"e\n")), result
assert ticker.exec_run("id -u", user="nobody").output == b"65534\n"
parts = list(ticker.exec_run("sh -c 'echo 1; sleep 0.2; echo 2'", stream=True).output)
assert b"".join(parts) == b"1\n2\n", parts

followed = 0
for line in ticker.logs(stream=True, follow=True):
    followed += 1
    if followed > 3:
        break

exec_id = client.api.exec_create("py", "cat", stdin=True)["Id"]
raw = client.api.exec_start(exec_id, socket=True)._sock
raw.sendall(b"through\n")
raw.shutdown(socket.SHUT_WR)
received = b""
while piece := raw.recv(100):
    received += piece
assert received == b"\x01\0\0\0\0\0\0\x08through\n", received
assert client.api.exec_inspect(exec_id)["ExitCode"] == 0

ticker.pause()
ticker.reload()
assert ticker.status == "paused", ticker.status
ticker.unpause()
assert [c.name for c in client.containers.list(filters={"label": "a=b"})] == ["py"]
assert client.containers.list(filters={"status": "exited"}) == []
ticker.rename("py2")

events = client.events(decode=True, filters={"type": "container"})
stopper = threading.Thread(target=lambda: (time.sleep(0.3), ticker.stop(timeout=1)))
stopper.start()
actions = []
for event in events:
    actions.append(event["Action"])
    if event["Action"] == "stop":
        break
events.close()
stopper.join()
assert actions == ["kill", "die", "stop"], actions
assert ticker.wait()["StatusCode"] == 137
ticker.remove()
try:
    client.containers.get("py2")
    raise SystemExit("no error")
except docker.errors.NotFound:
    pass

volume = client.volumes.create("pv", labels={"q": "r"})
assert volume.attrs["Labels"] == {"q": "r"}
client.containers.run("busybox", "sh -c 'echo kept > /d/f'", remove=True, volumes=["pv:/d"])
assert client.containers.run("busybox", "cat /d/f", remove=True, volumes=["pv:/d"]) == b"kept\n"
volume.remove()
assert sorted(n.name for n in client.networks.list()) == ["bridge", "host", "none"]

image.tag("pytag", "1")
client.images.remove("pytag:1")

terminal = client.api.create_container("busybox", "cat", stdin_open=True, tty=True)["Id"]
attached = client.api.attach_socket(terminal, params={"stdin": 1, "stdout": 1, "stream": 1})._sock
client.api.start(terminal)
client.api.resize(terminal, 40, 100)
attached.sendall(b"tty\n")
received = b""
while received.count(b"tty\r\n") < 2:
    received += attached.recv(100)
client.api.kill(terminal)
assert client.api.wait(terminal)["StatusCode"] == 137
client.api.remove_container(terminal)
