"""What may be shown of addresses and of other people's words, and the last net for secrets."""

import base64
import json
import pickle
import string
from urllib.parse import quote

import pytest
from hypothesis import given, settings, strategies as st

from stagefleet.errors import StagefleetError, UsageError
from stagefleet.redaction import (
    host_of,
    masked_line,
    masked_url,
    plain_text,
    quoted,
    redact,
    remember_secret,
    words_of,
)
from stagefleet.runs.models import ErrorInfo

SECRET = "planted/s3cret+of#the?test@home:x"
ODD = "/#?@:[]%&=+ \\'\"é"
PASSWORDS = st.text(alphabet=string.ascii_letters + string.digits + ODD, min_size=6, max_size=20).filter(
    lambda text: any(character.isalpha() for character in text)
)
ARCHETYPES = [
    "redis://{user}:{password}@redis.test:6379/0",
    "redis://:{password}@redis.test:6379/0",
    "rediss://{user}:{password}@redis.test/0",
    "redis://redis.test:6379/0?password={password}",
    "rediss://redis.test/0?ssl_password={password}&ssl_ca_certs=/ca.pem",
    "redis://redis.test/0?username={password}",
    "redis://redis.test/0#{password}",
    "redis://{user}:{password}@[::1/0",
    "redis://{user}:{password}@[::1]:6379/0",
    "unix://{user}:{password}@/run/redis.sock?db=1",
    "unix:///run/redis.sock?password={password}",
    "redis+socket://{user}:{password}@/run/redis.sock?virtual_host=1",
    "https://{user}:{password}@registry.test/v2/",
    "https://bucket.test/blob?X-Amz-Signature={password}",
    "https://hooks.test/services/{password}",
    "tcp://{user}:{password}@engine.test:2376",
    "{user}:{password}@redis.test:6379",
]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hunter2@redis.test:6379/0", "redis://redis.test:6379/0"),
        ("redis://me:hunt@er2@redis.test:6379/0", "redis://redis.test:6379/0"),
        ("rediss://[::1]:6379/12", "rediss://[::1]:6379/12"),
        ("redis://redis.test/0?password=hunter2", "redis://redis.test/0"),
        ("unix:///run/redis.sock?db=1&password=hunter2", "unix:///run/redis.sock"),
        ("https://me:hunter2@hooks.test:8443/services/T0KEN?x=1", "https://hooks.test:8443"),
        ("redis://me:hunter2@[::1/0", "redis://..."),
        ("redis://me:hunt/er2@redis.test/0", "redis://..."),
        ("redis://me:1234/er2@redis.test/0", "redis://..."),
        ("redis://me:12?er2@redis.test/0", "redis://..."),
        ("redis://me:hunt#er2@redis.test/0", "redis://..."),
        ("redis://:hunter2", "redis://..."),
        ("gopher://nowhere", "gopher://nowhere"),
        ("hunter2", "..."),
        ("", "..."),
        (" redis://redis.test/0\n", "redis://redis.test/0"),
    ],
)
def test_an_address_is_shown_by_scheme_host_port_and_database(url, shown):
    """R16: what stands elsewhere in an address may be a password, or a piece of one."""
    assert shown == masked_url(url)


@settings(deadline=None)  # the machine may be busy
@given(template=st.sampled_from(ARCHETYPES), user=PASSWORDS | st.just("me"), password=PASSWORDS)
def test_no_address_shows_its_password_however_it_is_written(template, user, password):
    """R16: percent-encoded or not, in user information, query, fragment or path."""
    frame = masked_url(template.format(user="", password="")) + "redis.test:6379/0 /run/redis.sock"
    for spelled in (password, quote(password, safe="")):
        shown = masked_url(template.format(user=user, password=spelled))
        assert spelled not in shown or spelled in frame
        assert password not in shown or password in frame


@settings(deadline=None)  # the machine may be busy
@given(st.text() | st.text(alphabet=string.ascii_letters + ODD).map(lambda text: f"redis://{text}"))
def test_anything_can_be_shown(text):
    """R16: a malformed address is told of, and is no error in the telling."""
    assert "@" not in masked_url(text)
    assert host_of(text)
    assert "\n" not in quoted(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("me:hunter2@registry.test/app", "'***@registry.test/app'"),
        ("me:hunt/er2@registry.test/app", "'***@registry.test/app'"),
        (f"registry.test/app@sha256:{'a' * 12}", f"'registry.test/app@sha256:{'a' * 12}'"),
        (f"me:x@registry.test/app@sha256:{'a' * 12}", f"'***@registry.test/app@sha256:{'a' * 12}'"),
        ("https://hooks.test/x?token=hunter2", "'https://hooks.test/x?***'"),
        ("a'b", '"a\'b"'),
        ("x" * 200, "'" + "x" * 99 + "...'"),
    ],
)
def test_what_a_person_typed_is_quoted_without_login_and_query(text, shown):
    """R16: a registry's address with a login, pasted where a repository is due, ends in an error."""
    assert shown == quoted(text)


@pytest.mark.parametrize(
    "spell",
    [
        lambda secret: secret,
        lambda secret: quote(secret, safe=""),
        quote,
        json.dumps,
        repr,
        lambda secret: base64.b64encode(secret.encode()).decode(),
        lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
        lambda secret: base64.b64encode(f"me:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(json.dumps({"password": secret}).encode()).decode(),
    ],
)
def test_a_remembered_secret_is_masked_however_it_is_spelled(spell):
    """R16: libraries and servers repeat it percent-encoded, escaped or in base64."""
    remember_secret(SECRET)
    text = f"before {spell(SECRET)} behind"
    masked = redact(text)
    assert "***" in masked
    assert masked.startswith("before")
    assert masked.endswith("behind")
    assert len(masked) < len(text) - 0.7 * len(SECRET)


def test_a_short_secret_is_a_word_like_others():
    """R16: the last net leaves short secrets: their words stand in every message."""
    remember_secret("redis", "")
    assert "redis" == redact("redis")


def test_tokens_push_out_no_password():
    """R16: a fleet gets thousands of tokens, and its Redis has one password."""
    remember_secret(SECRET)
    for number in range(1000):
        remember_secret(f"token-{number:08}", passes=True)
    assert "*** token-00000000 ***" == redact(f"{SECRET} token-00000000 token-00000999")


def test_no_error_of_ours_holds_what_is_known_to_be_secret():
    """R16: neither its message nor what is pickled of it, nor what the ledger keeps."""
    remember_secret(SECRET)
    error = UsageError(f"the server says {SECRET}")
    assert "the server says ***" == str(error) == str(pickle.loads(pickle.dumps(error)))  # noqa: S301 - our own
    assert SECRET not in repr(error) + repr(error.__reduce__())
    assert "the server says ***" == ErrorInfo.of(error).message
    assert (
        "no answer from redis://me:***@redis.test"
        == ErrorInfo.of(OSError("no answer from redis://me:hunter2@redis.test")).message
    )
    assert () == StagefleetError().args


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("to redis://me:hunter2@redis.test:1/0 now", "to redis://me:***@redis.test:1/0 now"),
        ("to redis://me:hunt/er#2@redis.test now", "to redis://me:***@redis.test now"),
        ("to https://t0ken@git.test/x now", "to https://***@git.test/x now"),
        ('"https://a.test/b?X-Amz-Signature=1&x=2"', '"https://a.test/b?***"'),
        ("write redis://USER:PASSWORD@HOST:PORT/DATABASE", "write redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        (
            "unknown command 'AUTH', with args beginning with: 'hunter2' ",
            "unknown command 'AUTH', with args beginning with: ***",
        ),
    ],
)
def test_a_finished_line_loses_logins_and_queries_of_addresses(line, masked):
    """R16: the last net for lines that libraries write."""
    assert masked == masked_line(line)


def test_a_server_s_words_are_masked_before_they_are_cut():
    """R16: half a token is one, too."""
    remember_secret(SECRET)
    assert "says ***" == words_of(f"says {SECRET}", limit=20)
    assert "one line, no bell" == words_of("one line,\r\n no\x07 bell", limit=100)


STEERING = "".join(map(chr, (0x7F, 0x9B, 0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F))))
STEERING += "".join(map(chr, (*range(0x2060, 0x2070), 0xFEFF, 0xE0001, 0xE0020)))
"""Controls, and what changes the direction of text or is not seen (Unicode's Bidi_Control, and the like)."""


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(STEERING))))
def test_text_from_outside_steers_no_terminal(text):
    """Whatever a registry answers or calls its tags: see https://trojansource.codes."""
    assert words_of(text, limit=1000).isprintable()
    shown = plain_text(text)
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    assert len(text) == len(shown)
    assert all(new in {old, " "} for old, new in zip(text, shown, strict=True))
    if text.isprintable():
        assert text == shown


@pytest.mark.parametrize("character", STEERING)
def test_what_steers_text_is_replaced(character):
    assert "a b" == plain_text(f"a{character}b") == words_of(f"a{character}b", limit=10)
