"""Anonymous, basic and stored logins, against registries that check them."""

from __future__ import annotations

import base64
import traceback

import pytest

from stagefleet.errors import CredentialsError
from tests.services import push_image

USERS = {"ci": "pass:wörd"}


@pytest.fixture
def locked(make_registry):
    return make_registry(htpasswd=USERS)


def test_a_registry_without_logins_is_sent_none(registry, client, at, log_in):
    push_image(registry, "team/app", "one")
    log_in(registry.host, "ci", "hunter2")
    client.ping(registry.host)
    assert ["one"] == list(client.tags(at(registry)))
    assert [200, 200] == [request.status for request in registry.requests()[-2:]]


def test_a_password_opens_the_registry_and_is_asked_for_once(locked, client, log_in):
    log_in(locked.host, *next(iter(USERS.items())))
    for _ in range(3):
        client.ping(locked.host)
    assert [401, 200, 200, 200] == [request.status for request in locked.requests()]


def test_a_wrong_password_names_the_file_and_the_remedy_and_no_secret(
    locked, client, at, log_in, config_file
):
    log_in(locked.host, "ci", "hunter2")
    with pytest.raises(CredentialsError) as caught:
        list(client.tags(at(locked)))
    message = str(caught.value)
    assert f"registry {locked.host} refuses the login" in message
    assert f"logins are read from {config_file}" in message
    assert f"docker login {locked.host}" in message
    for secret in ("hunter2", base64.b64encode(b"ci:hunter2").decode()):
        assert secret not in "".join(traceback.format_exception(caught.value))


def test_no_login_says_which_file_is_missing(locked, client, at, config_file):
    with pytest.raises(CredentialsError, match="wants a login and there is none") as caught:
        list(client.tags(at(locked)))
    assert f"there is no {config_file}" in str(caught.value)


def test_a_login_that_is_mended_helps_a_client_that_was_refused(locked, client, log_in):
    log_in(locked.host, "ci", "old")
    with pytest.raises(CredentialsError):
        client.ping(locked.host)
    log_in(locked.host, *next(iter(USERS.items())))
    client.ping(locked.host)


def test_the_login_of_one_registry_is_not_sent_to_another(make_registry, locked, client, log_in):
    other = make_registry(htpasswd=USERS)
    log_in(locked.host, *next(iter(USERS.items())))
    client.ping(locked.host)
    with pytest.raises(CredentialsError, match=f"{other.host} wants a login"):
        client.ping(other.host)


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_on_the_path_keeps_the_login(locked, client, write_config, install_helper, key):
    asked = install_helper("of-tests", user="ci", secret=USERS["ci"])
    named = {locked.host: "of-tests"} if key == "credHelpers" else "of-tests"
    write_config({"auths": {locked.host: {}}, key: named})
    for _ in range(3):
        client.ping(locked.host)
    assert [locked.host] == asked.read_text().split()


def test_a_helpers_wrong_password_is_refused_and_not_shown(
    locked, client, write_config, install_helper, config_file
):
    install_helper("of-tests", user="ci", secret="hunter2")
    write_config({"credsStore": "of-tests"})
    with pytest.raises(CredentialsError) as caught:
        client.ping(locked.host)
    assert str(config_file) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_helper_that_is_not_installed_is_named(locked, client, write_config):
    write_config({"credsStore": "nowhere-installed"})
    with pytest.raises(CredentialsError, match="docker-credential-nowhere-installed cannot be started"):
        client.ping(locked.host)
