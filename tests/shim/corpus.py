"""Pod templates in the shape of well-known programs: how each finds its ports, and the one annotation that suits it.

They are written for this test, after what the programs do, not after anybody's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIXED = "fixed"
"""The image knows its port, and nothing says another."""

OWN: Mapping[str, str] = {"network": "Pod"}
REWRITE: Mapping[str, str] = {"rewrite": "true"}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One container. `reads`: by port where the program has its number from: `args 1`, `command 2`, `env PORT`, or fixed.

    `probe` is a numeric one, `runs` an exec probe, `scrape` the annotation of Prometheus, `service` a numeric target.
    """

    name: str
    ports: Mapping[str, int]
    reads: Mapping[str, str]
    says: Mapping[str, str] = field(default_factory=dict)
    policy: str = "Dynamic"
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    probe: int = 0
    runs: tuple[str, ...] = ()
    scrape: int = 0
    service: int = 0
    udp: bool = False

    def template(self) -> dict[str, Any]:
        """The Pod as an API server shows it."""
        protocol = "UDP" if self.udp else "TCP"
        made: dict[str, Any] = {
            "name": self.name,
            "image": self.name,
            "args": list(self.args),
            "env": [{"name": name, "value": value} for name, value in self.env.items()],
            "ports": [
                {"name": name, "containerPort": number, "protocol": protocol} for name, number in self.ports.items()
            ],
        }
        if self.probe:
            made["livenessProbe"] = {"tcpSocket": {"port": self.probe}}
        if self.runs:
            made["readinessProbe"] = {"exec": {"command": list(self.runs)}}
        notes = {"hostport.io/enabled": "true", "hostport.io/policy": self.policy}
        notes |= {f"hostport.io/{key}": value for key, value in self.says.items()}
        notes |= {"prometheus.io/port": str(self.scrape)} if self.scrape else {}
        metadata = {"name": f"{self.name}-0", "namespace": "demo", "labels": {"app": self.name}, "annotations": notes}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [made]}}


def fixed(name: str, ports: Mapping[str, int], **more: Any) -> Program:
    """A program that keeps its ports, in a network of its own."""
    return Program(name=name, ports=ports, reads=dict.fromkeys(ports, FIXED), says=OWN, **more)


def by_env(name: str, port: str, number: int, variable: str, **more: Any) -> Program:
    """A program that has its number from a variable, which is published."""
    known = {"says": {f"publish-{port}": f"env:{variable}"}, "env": {variable: str(number)}} | more
    return Program(name=name, ports={port: number}, reads={port: f"env {variable}"}, **known)


def by_args(name: str, ports: Mapping[str, int], *args: str, **more: Any) -> Program:
    """A program whose args say the numbers: each port's stands in the first of them that has it."""
    places = {port: next(at for at, word in enumerate(args) if str(number) in word) for port, number in ports.items()}
    reads = {port: f"args {at}" for port, at in places.items()}
    return Program(name=name, ports=ports, reads=reads, **{"args": args, "says": REWRITE, **more})


PROGRAMS = (
    # -- servers of the web: they keep what they have
    fixed("nginx", {"http": 80}, probe=80, service=80),
    fixed("apache", {"http": 80}, runs=("curl", "-sf", "localhost:80/"), service=80),
    fixed("caddy", {"http": 80, "https": 443}, probe=80),
    fixed("haproxy", {"http": 80, "stats": 8404}, probe=8404, scrape=8404),
    fixed("envoy", {"http": 10000, "admin": 9901}, args=("-c", "/etc/envoy.yaml"), probe=9901, scrape=9901),
    fixed("traefik", {"web": 8000, "websecure": 8443}, args=("--entryPoints.web.address=:8000/tcp",), service=8000),
    fixed("contour-envoy", {"http": 8080, "https": 8443}, probe=8080),
    fixed("kong", {"proxy": 8000, "admin": 8001}, env={"KONG_PROXY_LISTEN": "0.0.0.0:8000"}, probe=8001),
    fixed("grafana", {"http": 3000}, probe=3000, service=3000),
    fixed("keycloak", {"http": 8080}, env={"KC_HOSTNAME": "auth.example.com"}, probe=8080, service=8080),
    fixed("wordpress", {"http": 80}, env={"WORDPRESS_DB_HOST": "db:3306"}, probe=80),
    fixed("jenkins", {"http": 8080, "agent": 50000}, probe=8080),
    fixed("gitea", {"http": 3000, "ssh": 22}, probe=3000, service=3000),
    fixed("registry", {"http": 5000}, env={"REGISTRY_HTTP_ADDR": ":5000"}, probe=5000),
    fixed("minio", {"api": 9000, "console": 9001}, args=("server", "/data", "--console-address", ":9001"), probe=9000),
    # -- databases and brokers of one replica
    fixed("postgres", {"sql": 5432}, runs=("pg_isready", "-h", "127.0.0.1", "-p", "5432"), service=5432),
    fixed("mysql", {"sql": 3306}, runs=("mysqladmin", "ping", "-h", "127.0.0.1"), service=3306),
    fixed("mongo", {"db": 27017}, runs=("mongosh", "--port", "27017", "--eval", "1"), service=27017),
    fixed("memcached", {"cache": 11211}, args=("-m", "64"), probe=11211),
    fixed("rabbitmq", {"amqp": 5672, "ui": 15672}, probe=5672, service=5672),
    fixed("nats", {"client": 4222, "monitor": 8222}, args=("-m", "8222"), probe=8222),
    fixed("influxdb", {"http": 8086}, probe=8086, service=8086),
    fixed("clickhouse", {"http": 8123, "native": 9000}, probe=8123),
    fixed("elasticsearch", {"http": 9200}, env={"discovery.type": "single-node"}, probe=9200, service=9200),
    fixed("opensearch", {"http": 9200}, probe=9200),
    fixed("neo4j", {"http": 7474, "bolt": 7687}, probe=7474),
    fixed("qdrant", {"http": 6333, "grpc": 6334}, probe=6333),
    fixed("mosquitto", {"mqtt": 1883}, probe=1883),
    fixed("emqx", {"mqtt": 1883, "ui": 18083}, probe=1883),
    # -- agents, operators, exporters
    fixed("prometheus", {"http": 9090}, args=("--config.file=/etc/p.yaml",), probe=9090, service=9090),
    fixed("alertmanager", {"http": 9093}, probe=9093),
    fixed("manager", {"metrics": 8080, "health": 8081}, args=("--health-probe-bind-address=:8081",), probe=8081),
    fixed("loki", {"http": 3100}, probe=3100),
    fixed("otel-collector", {"grpc": 4317, "http": 4318}, scrape=4317),
    fixed("fluentd", {"forward": 24224}, probe=24224),
    fixed("triton", {"http": 8000, "grpc": 8001, "metrics": 8002}, probe=8000, scrape=8002),
    fixed("ollama", {"http": 11434}, probe=11434, service=11434),
    fixed("tgi", {"http": 80}, args=("--model-id", "m"), probe=80),
    # -- peers that assume one number: one Pod on a node, and it keeps its own
    *(
        Program(name=name, ports=ports, reads=dict.fromkeys(ports, FIXED), policy="Passthrough", args=args)
        for name, ports, args in (
            ("etcd", {"client": 12379, "peer": 12380}, ("--initial-cluster=e-0=http://e-0.e:12380",)),
            ("cockroach", {"sql": 26257, "http": 8080}, ("start", "--join=c-0.c:26257")),
            ("cassandra", {"cql": 9042, "storage": 7000}, ()),
            ("galera", {"sql": 3306, "sync": 4567}, ()),
            ("consul", {"serf": 8301, "http": 8500}, ("agent", "-retry-join=consul-0.consul")),
            ("zookeeper", {"client": 2181, "peer": 2888}, ()),
        )
    ),
    # -- numbers in variables
    by_env("minecraft", "game", 25565, "SERVER_PORT"),
    by_env("valheim", "game", 2456, "SERVER_PORT", udp=True),
    by_env("cs2", "game", 27015, "CS2_PORT", udp=True),
    by_env("palworld", "game", 8211, "PORT", udp=True),
    by_env("torchrun", "master", 29500, "MASTER_PORT", says=REWRITE),
    by_env("vllm-distributed", "http", 8000, "VLLM_PORT", probe=8000),
    by_env("node-app", "http", 3000, "PORT", probe=3000),
    by_env("rails", "http", 3001, "PORT", probe=3001),
    by_env("bitnami-redis", "redis", 6379, "REDIS_PORT_NUMBER"),
    by_env("quake", "game", 27960, "NET_PORT", udp=True),
    # -- numbers in args
    by_args("vllm", {"http": 8000}, "serve", "--port=8000", "m", probe=8000),
    by_args("redis", {"redis": 6379}, "redis-server", "--port", "6379", runs=("redis-cli", "-p", "6379", "ping")),
    by_args("redis-replica", {"redis": 6379}, "redis-server", "--port", "6379", "--replicaof", "redis-0.redis", "6379"),
    by_args("node-exporter", {"metrics": 9101}, "--web.listen-address=:9101", probe=9101, scrape=9101),
    by_args("kube-proxy-like", {"metrics": 10249}, "--metrics-bind-address=0.0.0.0:10249", scrape=10249),
    by_args("llama-server", {"http": 8080}, "--host", "0.0.0.0", "--port", "8080", probe=8080),
    by_args("uvicorn", {"http": 8000}, "uvicorn", "app:app", "--host", "0.0.0.0", "--port", "8000", probe=8000),
    by_args("gunicorn", {"http": 8000}, "gunicorn", "-b", "0.0.0.0:8000", "app", runs=("curl", "http://localhost:8000/h")),
    by_args("ray-head", {"gcs": 6379, "client": 10001}, "ray start --head --port=6379 --ray-client-server-port=10001 --block"),
    by_args("livekit", {"http": 7880, "rtc": 7881}, "--port=7880", "--rtc.tcp_port=7881", probe=7880),
    by_args("coturn", {"turn": 3478}, "-n", "--listening-port=3478", udp=True),
    by_args("iperf", {"test": 5201}, "-s", "-p", "5201"),
    by_args("ttyd", {"http": 7681}, "ttyd", "-p", "7681", "bash", probe=7681),
    # -- what one annotation does not do: the second number of the program is nowhere in the Pod
    Program(name="steam-query", ports={"game": 2456, "query": 2457}, udp=True, env={"SERVER_PORT": "2456"},
            says={"publish-game": "env:SERVER_PORT"}, reads={"game": "env SERVER_PORT", "query": FIXED}),
    Program(name="redis-cluster", ports={"redis": 6380, "bus": 16380}, args=("--port", "6380"), says=REWRITE,
            reads={"redis": "args 1", "bus": FIXED}),
)  # fmt: skip
