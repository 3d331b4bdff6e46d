"""Columns and JSON as pages carry them, decoded by NumPy and json."""

import base64
import json

import numpy as np
import pytest

from tunrex_jax_monitor.host.report.html import encode


def decoded(text):
    kind, _, content = text.partition(":")
    return np.frombuffer(base64.b64decode(content), np.dtype(kind).newbyteorder("<"))


def test_float32_values_come_back_to_the_bit():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32).astype(float)
    values[3] = np.nan
    assert encode.floats(values).startswith("f4:")
    np.testing.assert_array_equal(decoded(encode.floats(values)), values)


def test_a_value_beyond_float32_takes_a_wider_column():
    values = np.array([1e308, -1.0, np.inf, np.nan])
    assert encode.floats(values).startswith("f8:")
    np.testing.assert_array_equal(decoded(encode.floats(values)), [1e308, -1.0, np.nan, np.nan])


@pytest.mark.parametrize(("step", "kind"), [(2**31 - 1, "i4"), (2**31, "f8"), (2**53 - 1, "f8"), (-5, "i4")])
def test_steps_are_exact(step, kind):
    text = encode.integers(np.array([step]))
    assert text.startswith(kind)
    assert int(decoded(text)[0]) == step


def test_no_steps_are_no_steps():
    assert len(decoded(encode.integers(np.array([], np.int64)))) == 0


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028\u2029", "&lt;", '"\\'])
def test_json_cannot_end_its_element_and_says_the_same(name):
    text = encode.script_json({name: name})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {name: name}
