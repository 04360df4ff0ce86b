"""Answers that no registry should give, as strategies of hypothesis."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from stagefleet.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Repository

REPOSITORY, OTHER = Repository.parse("reg.example.com/group/app"), Repository.parse("reg.example.com/other")
CONTENT = b"content"
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))
MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7},
        "layers": [],
    }
)
TAG = REPOSITORY.tagged("one")
LONG_NUMBER = "9" * 5000
MANY_DIGITS = 10**400

NUMBERS = st.sampled_from(
    [
        "0",
        "7",
        "-1",
        "1e9",
        "007",
        "٣",
        "9" * 19,
        LONG_NUMBER,
        "-" + LONG_NUMBER,
        "",
        " ",
        "7, 7",
        "0x7",
        "nan",
    ]
)
DATES = st.sampled_from(
    [
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Thu, 99 Foo 99999",
        LONG_NUMBER,
        "0",
    ]
)
ADDRESSES = st.sampled_from(
    [
        "/v2/group/app/blobs/uploads/1?state=a#b",
        f"/v2/group/app/manifests/{BLOB.digest}",
        "/v2/group/app/manifests/sha512:" + "0" * 128,
        "https://storage.example.com/x",
        "https://reg.example.com:443/v2/",
        "http://[::1",
        "https://reg.example.com:99999/",
        "https://reg.example.com:" + LONG_NUMBER,
        "//",
        "?",
        "\x00",
        "ftp://x/",
        "https://\u00e9/",
        "https://" + "a" * 300 + "/",
    ]
)
DIGESTS = st.sampled_from(
    [
        str(BLOB.digest),
        str(MANIFEST.digest),
        "sha512:" + "0" * 128,
        "sha256:",
        "sha256:" + "A" * 64,
        "md5:x",
        ":",
        "\u0660",
        LONG_NUMBER,
    ]
)
CHALLENGES = st.sampled_from(
    [
        "Basic realm=x",
        'Bearer realm="https://tokens.example.com/t",service="s",scope="x"',
        'Bearer realm="https://[::1"',
        'Bearer realm="/relative"',
        'Bearer realm="https://tokens.example.com:99999/"',
        'Bearer error="insufficient_scope"',
        "Negotiate",
        "Bearer",
        '"',
        ",,,=",
    ]
)
LINKS = st.sampled_from(
    ['</v2/group/app/tags/list?n=1&last=a>; rel="next"', "<http://[>; rel=next", "<>; rel=next", "<;", "x"]
)
TYPES = st.sampled_from(
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "application/json", "text/html", "", ";", "\u00e9", "a" * 3000]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Length": NUMBERS,
        "Content-Type": TYPES,
        "Content-Range": st.sampled_from(["bytes 0-6/7", "bytes 3-", "bytes " + LONG_NUMBER, "x"]),
        "Docker-Content-Digest": DIGESTS,
        "Location": ADDRESSES,
        "Link": LINKS,
        "Retry-After": NUMBERS | DATES,
        "Date": DATES,
        "WWW-Authenticate": CHALLENGES,
        "Range": NUMBERS,
    },
)
STATUSES = st.sampled_from(
    [
        100,
        103,
        200,
        201,
        202,
        204,
        206,
        301,
        302,
        307,
        400,
        401,
        403,
        404,
        405,
        408,
        412,
        416,
        429,
        500,
        501,
        502,
        503,
        504,
        522,
        599,
        600,
        999,
    ]
)
SCALARS = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        7,
        2**63,
        2**64,
        MANY_DIGITS,
        1e300,
        float("inf"),
        float("nan"),
        "",
        "a",
        "\ud800",
        "\x1b[31m",
        "x" * 3000,
        str(BLOB.digest),
        OCI_MANIFEST,
        OCI_INDEX,
        "2025-01-01T00:00:00",
    ]
)
NAMES = st.sampled_from(
    [
        "tags",
        "name",
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "urls",
        "platform",
        "annotations",
        "subject",
        "errors",
        "code",
        "message",
        "detail",
        "token",
        "access_token",
        "expires_in",
        "issued_at",
        "details",
    ]
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
DESCRIPTOR = st.fixed_dictionaries(
    {
        "digest": st.just(str(BLOB.digest)) | DOCUMENTS,
        "size": st.sampled_from([7, 0, 10**30, MANY_DIGITS]) | DOCUMENTS,
    },
    optional={"mediaType": SCALARS, "urls": DOCUMENTS, "annotations": DOCUMENTS, "platform": DOCUMENTS},
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.just(2) | SCALARS,
        "mediaType": st.sampled_from([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST]) | SCALARS,
        "config": DESCRIPTOR | DOCUMENTS,
        "layers": st.lists(DESCRIPTOR, max_size=2) | DOCUMENTS,
        "manifests": st.lists(DESCRIPTOR, max_size=2) | DOCUMENTS,
        "subject": DESCRIPTOR | DOCUMENTS,
        "annotations": DOCUMENTS,
        "tags": st.lists(SCALARS, max_size=4) | DOCUMENTS,
        "errors": st.lists(DOCUMENTS, max_size=3) | DOCUMENTS,
        "token": st.just("granted") | SCALARS,
        "expires_in": SCALARS,
        "issued_at": SCALARS,
    },
)
BODIES = st.one_of(
    (LIKELY | DOCUMENTS).map(lambda document: json.dumps(document).encode()),
    st.sampled_from(
        [
            b"",
            CONTENT,
            MANIFEST.raw,
            b"<html>",
            b"[" * 100000,
            b'{"a":' * 100000,
            LONG_NUMBER.encode(),
            b"\xff\xfe",
            b'{"expires_in": %s}' % LONG_NUMBER.encode(),
            b'{"size": 1e%s}' % LONG_NUMBER.encode(),
        ]
    ),
    st.binary(max_size=30),
)
ANSWERS = st.tuples(STATUSES, HEADERS, BODIES)
