"""JSON from nodes: refused before it can overflow the stack of the process, whatever the recursion limit is."""

from __future__ import annotations

import json

import pytest

from chain_adapters.json_depth import DEPTH_MAX, is_too_deep


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_depth_is_counted(opening, closing):
    levels = DEPTH_MAX // len(closing)
    for count, verdict in ((levels, False), (levels + 1, True)):
        body = (opening * count + "1" + closing * count).encode()
        json.loads(body)
        assert is_too_deep(body) is verdict


@pytest.mark.parametrize("text", ["]" * 99, "[{" * 99, '\\"[' * 99, "\\\\"])
def test_brackets_in_texts_do_not_count(text):
    body = json.dumps([{text: text}] * 3).encode()
    assert not is_too_deep(body)


def test_a_text_cannot_hide_depth():
    assert is_too_deep(b'["a\\\\", ' + b"[" * 99 + b"]" * 99 + b', "b"]')


@pytest.mark.parametrize("body", [b"[" * 90_000, b'{"a":' * 90_000, b"[{}"])
def test_what_is_left_open_is_refused(body):
    assert is_too_deep(body)
