from typing import Any

from hypothesis import given, strategies as st

from stagefleet.runs.models import ErrorInfo, ItemState, Outcome
from stagefleet.runs.snapshots import decode_outcome, encode_outcome

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    item=st.text(),
    state=st.sampled_from(ItemState),
    result=st.none() | st.dictionaries(st.text(), _JSON, max_size=5),
    error=st.none() | st.builds(ErrorInfo, type=st.text(), message=st.text(max_size=2000)),
    sent=st.integers(0, 2**60),
    attempts=st.integers(0, 100),
)
def test_an_outcome_comes_back_from_the_stream_as_it_went_in(item, state, result, error, sent, attempts):
    outcome = Outcome(item=item, state=state, result=result, error=error, bytes=sent, attempts=attempts)

    decoded = decode_outcome(encode_outcome(outcome), "17-0")

    assert outcome.model_copy(update={"position": "17-0"}) == decoded


def test_a_stage_description_takes_less_than_half_a_kilobyte_in_the_stream():
    digest = "3f1c9a77e02b"
    hexadecimal = (digest * 6)[:64]
    repository = "registry.example.com:5000/group/project/stages"
    result: dict[str, Any] = {
        "stage_id": f"{hexadecimal[:56]}-1764028800000",
        "digest": hexadecimal[:56],
        "created_ms": 1764028800000,
        "name": f"{repository}:{hexadecimal[:56]}-1764028800000",
        "repo_digest": f"{repository}@sha256:{hexadecimal}",
        "image_id": f"sha256:{hexadecimal[::-1]}",
        "parent_id": f"sha256:{hexadecimal[8:]}{hexadecimal[:8]}",
        "labels": {
            "werf": "project",
            "werf-version": "v2.10.1",
            "werf-stage-content-digest": hexadecimal[:56],
            "werf-project-repo-commit": hexadecimal[:40],
            "org.opencontainers.image.source": "https://git.example.com/group/project",
        },
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
        "size": 187_345_221,
        "created_at": "2025-11-25T00:00:00+00:00",
    }
    outcome = Outcome(item=result["stage_id"], state=ItemState.SUCCEEDED, result=result, attempts=1)

    assert len(encode_outcome(outcome)) < 512
