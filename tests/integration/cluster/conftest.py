"""Ray nodes on one machine, each with a network, a hostname, a file system and processes of its own.

A node is a set of Linux namespaces. Ending its first process ends all of it at once, as pulling its plug
would; so does the end of these tests, whatever ends them. All nodes see the same state directory; Redis is
reached over the network, through a relay that can cut a node off. Needs root and `ip`, else tests skip.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import online_draft
from online_draft.launch.processes import descendants, end_all
from online_draft.redis_server import PrivateRedis
from online_draft.store import connect_redis

DEPLOY = Path(__file__).parents[3] / "deploy"
PACKAGE = Path(online_draft.__file__).parent
API_KEY, ADMIN_KEY = "sk-test", "admin-test"
TOOLS = ("unshare", "nsenter", "ip", "mount", "umount")

DEPLOYER = """
import json, sys
from online_draft.launch import ray_local

ray_local.join_ray(sys.argv[1])
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

config = ServeDeploySchema.model_validate(json.loads(sys.argv[2]))
client = serve_start(
    http_options=config.http_options.model_dump(),
    proxy_location=config.proxy_location,
    global_logging_config=config.logging_config,
)
client.deploy_apps(config)
ray_local.leave_ray()
"""
"""What `serve deploy` does, without Ray's dashboard."""


class Namespaces:
    """Namespaces that last as long as a process which waits for our end."""

    def __init__(self, *kinds: str) -> None:
        options = [f"--{kind}" for kind in kinds]
        if "pid" in kinds:
            options += ["--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["unshare", *options, "bash", "-c", "echo up; cat > /dev/null; exit 0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "up\n":
            raise OSError(self._holder.stderr.read().strip())
        # With `--fork` it is unshare's child, else it took unshare's place.
        self.pid = next(iter(descendants(self._holder.pid)), 0) if "pid" in kinds else self._holder.pid
        self._enter = ["nsenter", "-t", str(self.pid), *(f"--{kind}" for kind in kinds), "--"]

    def run(self, *words: str, environment: dict[str, str] | None = None, timeout_s: float = 60) -> str:
        """What a command within says; it must succeed."""
        ran = subprocess.run(
            [*self._enter, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, env=environment, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{words}: {ran.stdout[-2000:]} {ran.stderr[-4000:]}"
        return ran.stdout

    def kill(self) -> None:
        """SIGKILL for the first process and so, in a namespace of processes, for all; waits for it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(20)
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            assert pipe is not None
            pipe.close()


class Network:
    """A bridge in a namespace of its own, which this process and the nodes are plugged into."""

    def __init__(self) -> None:
        self._bridge = Namespaces("net")
        self._prefix = f"198.18.{os.getpid() % 256}"  # set aside for tests of networks
        self._sockets = 1
        self._bridge.run("ip", "link", "add", "br0", "type", "bridge")
        self._bridge.run("ip", "link", "set", "br0", "up")
        self.here = f"{self._prefix}.1"
        self._name = f"od{os.getpid()}"
        self._plug(self._name, os.getpid())
        for words in (f"addr add {self.here}/24 dev {self._name}", f"link set {self._name} up"):
            subprocess.run(["ip", *words.split()], check=True)

    def join(self, node: Namespaces, number: int) -> str:
        """Plug a node in; its address."""
        address = f"{self._prefix}.{10 + number}"
        self._plug("eth0", node.pid)
        words = ["link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"]
        for each in [*words, f"route add default via {self.here}"]:
            node.run("ip", *each.split())
        return address

    def close(self) -> None:
        self._bridge.kill()

    def _plug(self, name: str, pid: int) -> None:
        socket = f"port{self._sockets}"
        self._sockets += 1
        self._bridge.run(*f"ip link add {socket} type veth peer name {name} netns {pid}".split())
        self._bridge.run(*f"ip link set {socket} master br0 up".split())


class Relay:
    """From TCP to a unix socket. What comes from a node that is cut off waits, as does what is for it."""

    def __init__(self, host: str, socket: str) -> None:
        self._host, self._socket = host, socket
        self._gates: dict[str, asyncio.Event] = defaultdict(self._open_gate)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def cut(self, address: str) -> None:
        self._loop.call_soon_threadsafe(lambda: self._gates[address].clear())

    def heal(self, address: str) -> None:
        self._loop.call_soon_threadsafe(lambda: self._gates[address].set())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # until what was closed is

    def _open_gate(self) -> asyncio.Event:
        gate = asyncio.Event()
        gate.set()
        return gate

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            gate = self._gates[writer.get_extra_info("peername")[0]]
            await gate.wait()
            answers, upstream = await asyncio.open_unix_connection(self._socket)
            writers.append(upstream)
            ways = [self._carry(reader, upstream, gate), self._carry(answers, writer, gate)]
            await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            await gate.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


class Node:
    """A machine of the cluster: off, or with Ray on it."""

    def __init__(self, site: Site, number: int) -> None:
        self._site = site
        self.number = number
        self.name = f"node-{number}"
        self.address = ""
        self._spaces: Namespaces | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:8000"

    def start(self, overlays: dict[Path, Path] | None = None) -> None:
        """Switch it on and start Ray, as `deploy/ray/cluster.yaml` does; the first node is the head.

        `overlays` puts directories, for this node alone, in the place of others.
        """
        site = self._site
        spaces = self._spaces = Namespaces("net", "mount", "uts", "pid")
        self.address = site.network.join(spaces, self.number)
        spaces.run("hostname", self.name)
        own = site.root / self.name
        own.mkdir(exist_ok=True)
        mounts = {own: site.local, site.shared: site.state, site.image: PACKAGE}
        for source, place in [*mounts.items(), *(overlays or {}).items()]:
            spaces.run("mount", "--bind", str(source), str(place))
        where = (
            ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={site.local}/ray"]
            if self.number == 1
            else [f"--address={site.nodes[0].address}:6379"]
        )
        self.run(
            str(Path(sys.executable).with_name("ray")), "start", *where, f"--node-ip-address={self.address}",
            "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats",
        )  # fmt: skip

    def run(self, *words: str) -> str:
        assert self._spaces is not None
        environment = self._site.environment
        if self.number == 1:
            environment = environment | {"RAY_REDIS_ADDRESS": self._site.gcs_address}
        return self._spaces.run(*words, environment=environment, timeout_s=240)

    def power_off(self) -> None:
        """Every process on it gets SIGKILL at once. Idempotent."""
        spaces, self._spaces = self._spaces, None
        if spaces is not None:
            spaces.kill()

    def lose_state(self) -> None:
        """The shared state directory is away: an empty one that nobody can write is in its place."""
        assert self._spaces is not None
        self._spaces.run("mount", "-t", "tmpfs", "-o", "ro", "none", str(self._site.state))

    def find_state(self) -> None:
        """The state directory is back."""
        assert self._spaces is not None
        self._spaces.run("umount", str(self._site.state))


class Site:
    """Two nodes, the Redis of the service, Ray's own Redis, and the shared directory."""

    def __init__(self, root: Path, redis: PrivateRedis, stack: ExitStack, **settings: str) -> None:
        self.root = root
        self.shared, self.state, self.local = root / "shared", root / "state", root / "local"
        for directory in (self.shared, self.state, self.local):
            directory.mkdir()
        # Every node has the same code, also while somebody edits it here.
        self.image = Path(shutil.copytree(PACKAGE, root / "image"))
        self.network = Network()
        stack.callback(self.network.close)
        gcs_redis = stack.enter_context(PrivateRedis(root / "gcs"))
        self.redis = self._relay(redis, stack)
        self.gcs_address = f"{self.network.here}:{self._relay(gcs_redis, stack).port}"
        self.environment = self._environment(settings)
        self.nodes = [Node(self, 1), Node(self, 2)]
        for node in self.nodes:
            stack.callback(node.power_off)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        self.http = stack.enter_context(httpx.Client(timeout=30, trust_env=False, headers=headers))
        self.admin = {"Authorization": f"Bearer {ADMIN_KEY}"}

    @property
    def artifacts(self) -> Path:
        return self.shared / "artifacts"

    def _relay(self, server: PrivateRedis, stack: ExitStack) -> Relay:
        relay = Relay(self.network.here, str(server.directory / "redis.sock"))
        stack.callback(relay.close)
        return relay

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        def redis(user: str) -> str:
            return f"redis://{user}:pass-of-{user}@{self.network.here}:{self.redis.port}/0"

        inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        ours = {
            "TARGET": "embedded", "STATE_DIR": str(self.state), "ADMIN_KEY": ADMIN_KEY,
            "ACCESS__KEYS": json.dumps([hashlib.sha256(API_KEY.encode()).hexdigest()]),
            "REDIS__URL": redis("admin"), "REDIS__REPLICA_URL": redis("replica"),
            "REDIS__LEARNER_URL": redis("learner"), "REDIS__CONTROL_URL": redis("control"),
            "REPLICAS": "2", "SCALING__INGRESSES": "2", "SCALING__DRAIN_S": "2", "THREADS": "1",
            "ENGINE__MAX_SEQUENCES": "8", "ENGINE__SPECULATION": "always", "ENGINE__KERNELS": "off",
            # Without the n-gram memory: an answer that was asked for before would be over at once.
            "ENGINE__NGRAM": "false", **settings,
        }  # fmt: skip
        return {
            **inherited,
            # Else a proxy on a busy machine takes another node's ingress, which may die.
            "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",
            "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "10",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "OMP_NUM_THREADS": "1",
            **{f"ONLINE_DRAFT_{name}": value for name, value in ours.items()},
        }

    def deploy(self) -> None:
        """`deploy/serve.yaml`, with an ingress and a replica on each node, as on Kubernetes."""
        config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
        each = [{"name": name, "max_replicas_per_node": 1} for name in ("Ingress", "Replica")]
        config["applications"][0]["deployments"] = each
        head = self.nodes[0]
        head.run(sys.executable, "-c", DEPLOYER, f"{head.address}:6379", json.dumps(config))

    def get(self, path: str, node: int = 0) -> Any:
        """What the admin API says, asked at a node."""
        answer = self.http.get(f"{self.nodes[node].url}/admin/api{path}", headers=self.admin)
        answer.raise_for_status()
        return answer.json()

    def decide(self, path: str, node: int = 0) -> Any:
        answer = self.http.post(f"{self.nodes[node].url}/admin/api{path}", headers=self.admin)
        answer.raise_for_status()
        return answer.json()

    def replicas(self, node: int = 0) -> dict[str, Any]:
        """By the name of their node; who says nothing for ten seconds isn't among them."""
        return {each["replica"][:6]: each for each in self.get("/replicas", node)["replicas"]}

    def links(self, node: int = 0) -> int:
        """How many replicas the ingress of a node could give a request to."""
        return int(self.get("/status", node)["replica"].get("replicas", 0))

    def sees_both(self, node: int = 0) -> bool:
        return self.links(node) == len(self.nodes)

    def alarms(self, node: int = 0) -> set[tuple[str, str]]:
        """Codes, each with whom it is about: node, segment or actor."""
        found = self.get("/status", node).get("alarms", [])
        return {(alarm["code"], str(alarm["about"])[:6]) for alarm in found}

    def complete(self, number: int, node: int = 0, tokens: int = 8) -> Any:
        answer = self.http.post(f"{self.nodes[node].url}/v1/completions", json=body(number, tokens))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def streams(self, numbers: range, node: int = 0, tokens: int = 400) -> list[Stream]:
        return [Stream(self.nodes[node].url, number, tokens) for number in numbers]

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> float:
        """Seconds until it held; an endpoint that can't be reached says no."""
        start = time.monotonic()
        last: object = None
        while True:
            try:
                last = condition()
                if last:
                    return time.monotonic() - start
            except (httpx.HTTPError, KeyError, ValueError) as error:
                last = error
            waited = time.monotonic() - start
            assert waited < seconds, f"not within {seconds} s: {what}; {last!r}; {self.log()}"
            time.sleep(0.1)

    def log(self) -> str:
        file = self.shared / "service.log"
        lines = file.read_text().splitlines() if file.exists() else []
        return "\n".join([line for line in lines if " ingress: request " not in line][-20:])


def body(number: int, tokens: int) -> dict[str, Any]:
    """A request; its number is its seed, and every second one is greedy."""
    return {
        "model": "online-draft", "prompt": f"once upon a time {number}", "max_tokens": tokens, "seed": number,
        "ignore_eos": True, "temperature": 0 if number % 2 else 0.8, "logprobs": 1,
    }  # fmt: skip


class Stream:
    """A streamed completion as its client sees it, read by a thread."""

    def __init__(self, url: str, number: int, tokens: int) -> None:
        self.text = ""
        self.tokens: list[str] = []
        self.usage: dict[str, Any] = {}
        self.done = False
        self.error = ""
        asked = {**body(number, tokens), "stream": True, "stream_options": {"include_usage": True}}
        self._thread = threading.Thread(target=self._run, args=(url, asked), daemon=True)
        self._thread.start()

    @property
    def outcome(self) -> tuple[str, list[str], int]:
        """When it has ended as it should."""
        self._thread.join(180)
        assert self.done, self.error or "it never ended"
        return self.text, self.tokens, int(self.usage["completion_tokens"])

    def _run(self, url: str, asked: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        try:
            with (
                httpx.Client(timeout=120, trust_env=False, headers=headers) as http,
                http.stream("POST", f"{url}/v1/completions", json=asked) as response,
            ):
                if response.status_code != 200:
                    self.error = f"{response.status_code} {response.read()[:300]!r}"
                    return
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        self.done = not self.error
                    elif line:
                        self._take(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError as error:
            self.error = repr(error)

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = str(event["error"])
            return
        self.usage = event["usage"] or self.usage
        for choice in event["choices"]:
            self.text += choice["text"]
            self.tokens += (choice["logprobs"] or {"tokens": []})["tokens"]


def not_permitted() -> str:
    """Why there can be no namespaces here, "" if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)}"
    try:
        Namespaces("net", "mount", "uts", "pid").kill()
    except OSError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, guarded_redis: Any) -> Iterator[Site]:
    """Two nodes that serve. The module's `SETTINGS` are more of the environment."""
    reason = not_permitted()
    if reason:
        pytest.skip(f"the kernel permits no namespaces: {reason}")
    before = set(descendants(os.getpid()))
    settings: dict[str, str] = getattr(request.module, "SETTINGS", {})
    guarded_redis.start()
    client = connect_redis(guarded_redis.url)
    client.flushall()
    client.close()
    # A short path of its own: Ray's sockets may have 107 bytes, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="od-n-") as directory, ExitStack() as stack:
        made = Site(Path(directory), guarded_redis, stack, **settings)
        for node in made.nodes:
            node.start()
        made.deploy()
        for number in (0, 1):
            made.until(partial(made.sees_both, number), f"both replicas, seen from node {number + 1}", 180)
        made.until(lambda: ("control_silent", "contro") not in made.alarms(), "control", 120)
        yield made
    left = [pid for pid in descendants(os.getpid()) if pid not in before]
    end_all(left, 10)
