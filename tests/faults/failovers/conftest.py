"""Commands and workers whose Redis is taken over by another server, or loses the end of its file."""

import pytest

from tests.integration.faults.conftest import (  # noqa: F401 - fixtures are used by name
    SETTINGS,
    destination,
    show,
    source,
    start,
)
from tests.services import clean_environment, setting_variables


@pytest.fixture
def redis_server(make_redis):
    """One of the test's own, which survives its restart."""
    return make_redis(append_only=True)


@pytest.fixture
def address(make_proxy, redis_server):
    """Where clients and workers find Redis, whichever server that is."""
    return make_proxy(redis_server.host)


@pytest.fixture
def environment(address, tmp_path):
    """Nothing of the user's; short leases, so that what is lost comes back within seconds."""
    return clean_environment(
        HOME=str(tmp_path),
        DOCKER_CONFIG=str(tmp_path),
        STAGEFLEET_REDIS_URL=f"redis://{address.host}/0",
        **setting_variables(SETTINGS, "http", "runs"),
    )
