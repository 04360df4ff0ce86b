"""The services of tests, demo and bench: registries, Redis, tokens, TLS, SSH, a proxy, workers, engines.

Each is a real program, or a small server of the tests' own, on a free loopback port, in a folder of its own,
and each ends with the process that started it, however that one ends.
"""

from tests.services.engine import DockerEngine, archive_of
from tests.services.environment import clean_environment, setting_variables, stagefleet_command
from tests.services.fake_redis import FakeRedis
from tests.services.front import Answer, RegistryFront
from tests.services.images import ImageMaker, Pushed, push_image, push_index, stage_id_of
from tests.services.processes import (
    Program,
    ServiceMissingError,
    ServiceRefusedError,
    ServiceStartError,
    free_port,
)
from tests.services.proxy import TcpProxy
from tests.services.redis import RedisServer
from tests.services.registry import RegistryServer, Request
from tests.services.ssh import SshServer
from tests.services.tls import Tls
from tests.services.tls_proxy import TlsProxy
from tests.services.tokens import TokenServer
from tests.services.workers import Workers
from tests.services.workspace import make_workspace

__all__ = [
    "Answer",
    "DockerEngine",
    "FakeRedis",
    "ImageMaker",
    "Program",
    "Pushed",
    "RedisServer",
    "RegistryFront",
    "RegistryServer",
    "Request",
    "ServiceMissingError",
    "ServiceRefusedError",
    "ServiceStartError",
    "SshServer",
    "TcpProxy",
    "Tls",
    "TlsProxy",
    "TokenServer",
    "Workers",
    "archive_of",
    "clean_environment",
    "free_port",
    "make_workspace",
    "push_image",
    "push_index",
    "setting_variables",
    "stage_id_of",
    "stagefleet_command",
]
