"""A stage takes as few round trips as its requests have to wait for one another."""

from __future__ import annotations

import json

import pytest

from stagefleet.manifests import OCI_INDEX
from stagefleet.names import StageId
from tests.services.processes import wait_until

STAGE_ID = StageId("a" * 56, 1700000000000)
INDEX_ID = StageId("b" * 56)


@pytest.mark.parametrize("layers", [1, 3], ids=["one layer", "three layers"])
def test_a_stage_takes_five_round_trips_whatever_the_number_of_its_layers(course, layers):
    course.push(str(STAGE_ID), *(bytes([number]) * 1000 for number in range(layers)))
    course.copy(STAGE_ID)
    assert 5 == course.rounds.count, course.rounds.requests
    assert 5 + 3 * layers == course.rounds.total


def test_the_members_of_an_index_go_side_by_side(course):
    copy_stages(course, [1])
    course.rounds.requests = [[]]
    members = [course.push(f"member-{number}", bytes([number]) * 1000) for number in range(3)]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}
    course.source.put(str(INDEX_ID), OCI_INDEX, json.dumps(document).encode())
    course.copy(INDEX_ID)
    assert 1 + 5 + 1 + 1 == course.rounds.count, course.rounds.requests
    # and one looks for a deletion's left-over rejection of the stage
    assert 1 + 3 * 8 + 1 + 1 == sum(
        "tags" not in request for requests in course.rounds.requests for request in requests
    )


def stage_of(number):
    return StageId(f"{number:056x}", 1700000000000 + number)


def copy_stages(course, numbers):
    """Copy stages with a layer of their own each; returns rounds and requests of the last one."""
    for number in numbers:
        course.push(str(stage_of(number)), f"layer {number}".encode() * 100)
        course.rounds.requests = [[]]
        course.copy(stage_of(number))
    return course.rounds.count, course.rounds.total


def test_a_layer_is_fetched_while_a_repository_is_asked_that_lacked_the_last_ones(course):
    course.rounds.quiet_seconds = 0.05
    copy_stages(course, range(4))
    course.rounds.quiet_seconds = 0.4
    assert (4, 8) == copy_stages(course, [4])


def test_no_layer_is_fetched_in_vain_again_and_again(course):
    course.rounds.quiet_seconds = 0.05
    copy_stages(course, range(4))
    for number in range(10, 13):
        course.destination.push(f"layer {number}".encode() * 100)
    assert [7, 6, 6] == [copy_stages(course, [number])[1] for number in range(10, 13)]


def test_a_registry_that_takes_whole_blobs_gets_a_stage_in_four_round_trips(course):
    course.destination.takes_whole_blobs = True
    course.rounds.quiet_seconds = 0.05
    copy_stages(course, range(5))
    course.rounds.quiet_seconds = 0.4
    assert (4, 6) == copy_stages(course, [5])


def test_a_registry_that_no_longer_takes_whole_blobs_gets_them_all_the_same(course):
    course.destination.takes_whole_blobs = True
    course.rounds.quiet_seconds = 0.05
    copy_stages(course, range(5))
    course.destination.takes_whole_blobs = False
    copy_stages(course, range(5, 8))
    assert 8 == copy_stages(course, [8])[1]


def test_later_stages_open_no_connection(course):
    course.rounds.quiet_seconds = 0.05
    copy_stages(course, range(6))
    accepted = course.source.accepted, course.destination.accepted
    copy_stages(course, range(6, 12))
    assert accepted == (course.source.accepted, course.destination.accepted)


def test_connections_to_the_destination_are_there_before_its_first_request(course):
    course.rounds.quiet_seconds = 0
    course.push(str(STAGE_ID), b"layer")
    accepted = []

    def on_request(request):
        if request == f"GET {STAGE_ID}":
            wait_until(lambda: course.destination.accepted > 1, "connections to the destination")
            accepted.append(course.destination.accepted)

    course.source.on_request = on_request
    course.copy(STAGE_ID)
    assert [2] == accepted
