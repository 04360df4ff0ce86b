"""Commands as a shell starts them, beside workers that are killed."""

from tests.integration.cli.conftest import (  # noqa: F401 - fixtures are used by name
    command,
    environment,
    finish,
    push_stages,
    start,
)
from tests.integration.conftest import run_here  # noqa: F401 - as above
